"""Folders in eight bits: what is foreign is refused before transformers sees it."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ModelError
from contrastive.models import torchao
from contrastive.models.torchao import load

pytest.importorskip("torchao")


def test_a_planted_quantisation_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = {"model_type": "clip", "quantization_config": {"quant_method": "torchao", "quant_type": {"_type": "exec"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(torchao.huggingface, "load", lambda _: pytest.fail("was loaded"))
    with pytest.raises(ModelError, match="quantization_config: 'exec' is not one of"):
        load(tmp_path)


class Planted:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_pickled_weights_are_not_opened(tmp_path: Path):
    ours = {"quant_method": "torchao", "quant_type": {"default": {"_type": "PerRow", "_data": {}}}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "quantization_config": ours}))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_damaged_folder_is_refused(content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path)


def test_without_torchao_the_message_has_the_line_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torchao, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="needs torchao; pip install torchao"):
        load(tmp_path)
