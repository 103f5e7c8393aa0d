"""Programs of torch.export are not evaluated: there is no way to load one that does not trust it."""

from pathlib import Path

from contrastive.errors import ModelError
from contrastive.models.contrastive_model import ContrastiveModel


def load(folder: Path) -> ContrastiveModel:
    """Refuse the folder.

    `torch.export.load` unpickles what a file marks as pickled and evaluates expressions of its JSON as Python. No look
    at the file beforehand rules that out, and checksums beside a planted file are planted too.

    Raises:
        ModelError: always, naming what to evaluate instead.
    """
    rule = "is a program of torch.export, and loading one runs whatever its file says"
    raise ModelError(
        f"{folder}: {rule}; evaluate the checkpoint that it was exported from, whose embeddings are the same, "
        "or an export to onnx"
    )
