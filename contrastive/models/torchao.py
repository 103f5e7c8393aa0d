"""Exports in eight bits by torchao, opened for evaluation: a transformers model, with linear layers of int8."""

import json
from importlib.util import find_spec
from pathlib import Path

from contrastive.errors import ModelError
from contrastive.models import huggingface
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.models.quantization import KEY, check

CONFIG = "config.json"


def load(folder: Path) -> ContrastiveModel:
    """Return the model of a folder of `contrastive export --to torchao_int8`.

    Raises:
        ModelError: it is damaged or foreign, or torchao is not installed.
    """
    if find_spec("torchao") is None:
        raise ModelError(f"{folder}: needs torchao; pip install torchao")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: cannot be loaded: {str(error).splitlines()[0]}") from error
    check(config.get(KEY), folder)
    model, *_ = huggingface.load(str(folder))
    return model
