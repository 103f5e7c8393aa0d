import math
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastive.config import load
from contrastive.errors import ConfigError, ModelError
from contrastive.models.beginning import begin, check
from contrastive.models.build import build
from contrastive.models.checkpoint import restore, save, write_tensors
from contrastive.models.forms import open_model
from contrastive.settings import ModelConfig
from tests.models.test_build import MODEL_CFG, local_dir  # noqa: F401  (a fixture)

TOWERS = {"image": {"name": "cnn", "widths": [4], "depths": [1]}, "text": {"name": "lstm", "width": 8}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of ours, with an average of its weights."""
    built = build(ModelConfig(model_cfg=MODEL_CFG, preprocess={"mean": [0.5, 0.5, 0.5]}))
    place = save(tmp_path / "ours", built, {"step": 7})
    write_tensors(place / "ema.safetensors", {k: v + 1 for k, v in built.model.state_dict().items()})
    return place


def require_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_begins_with_the_weights_pixels_and_tokens_of_what_it_names(local_dir: Path):  # noqa: F811
    before = torch.random.get_rng_state()
    begun, whole = begin(ModelConfig(checkpoint=str(local_dir))), open_model(str(local_dir))
    require_same(begun.model.state_dict(), whole.model.state_dict())
    assert begun.preprocess.to_dict() == whole.info["preprocess"]
    assert torch.equal(begun.tokenizer(["a cat"]), whole.tokenizer(["a cat"]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_form_may_ask_for_the_average_of_a_run(folder: Path):
    scale = restore(folder)[0].model.logit_scale
    named: Any = {"form": str(folder), "weights": "ema"}
    assert torch.equal(begin(ModelConfig(checkpoint=named)).model.logit_scale, scale + 1)
    assert torch.equal(begin(ModelConfig(checkpoint=str(folder))).model.logit_scale, scale)


@pytest.mark.parametrize("towers", [{"model_cfg": MODEL_CFG}, {**TOWERS, "image_size": 32, "embed_dim": 8}])
def test_temperature_bias_and_pixels_of_the_run_take_the_place_of_its_own(tmp_path: Path, towers: dict[str, Any]):
    place = save(tmp_path / "ours", build(ModelConfig(preprocess={"mean": [0.4] * 3, "std": [0.1] * 3}, **towers)), {})
    begun = begin(
        ModelConfig(
            checkpoint=str(place), init_temperature=0.1, init_logit_bias=-10.0, preprocess={"mean": [0.5, 0.5, 0.5]}
        )
    )
    assert begun.model.logit_scale.item() == pytest.approx(math.log(10))
    assert begun.model.logit_bias is not None
    assert begun.model.logit_bias.tolist() == [-10.0]
    assert begun.model.logit_bias.requires_grad
    assert begun.preprocess.mean == (0.5, 0.5, 0.5)
    assert begun.preprocess.std == (0.1, 0.1, 0.1)
    again = begin(ModelConfig(checkpoint=str(place), init_logit_bias=-3.0))
    assert again.model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("bias", [None, -10.0])
def test_its_checkpoint_is_rebuilt_without_the_original(local_dir: Path, tmp_path: Path, bias: float | None):  # noqa: F811
    begun = begin(ModelConfig(checkpoint=f"local-dir:{local_dir}", init_logit_bias=bias))
    place = save(tmp_path / "saved", begun, {})
    for file in local_dir.glob("open_clip*"):
        file.unlink()
    built, _ = restore(place)
    require_same(built.model.state_dict(), begun.model.state_dict())
    # The optimizer's state is kept by position.
    assert [n for n, _ in built.model.named_parameters()] == [n for n, _ in begun.model.named_parameters()]
    assert built.preprocess == begun.preprocess
    assert built.config.checkpoint is None


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"checkpoint": {"weights": "ema"}}, "model.checkpoint: {'weights': 'ema'} must be a text, or a mapping like"),
        ({"checkpoint": 3}, "model.checkpoint: 3 must be a text, or a mapping like {form: RUN, weights: ema}"),
        ({"checkpoint": {"form": "a", "wights": "ema"}}, "model.checkpoint.wights: unknown key; did you mean weights?"),
        (
            {"checkpoint": {"form": "a", "weights": "best"}},
            "model.checkpoint.weights: 'best' is not one of 'trained', 'ema'",
        ),
        ({"checkpoint": "a", "tokenizer": {"name": "b"}}, "model.tokenizer: a model.checkpoint brings its own"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_door(given: dict[str, Any], rule: str):
    with pytest.raises(ConfigError) as caught:
        check(ModelConfig(**given))
    assert str(caught.value).startswith(rule)


def test_a_model_that_is_not_there_damaged_or_without_an_average_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"^model\.checkpoint: nowhere: there is no such folder, nor a model"):
        begin(ModelConfig(checkpoint="nowhere"))
    (folder / "ema.safetensors").unlink()
    with pytest.raises(ModelError, match=r"^model\.checkpoint: .*ours: holds no moving average of the weights"):
        begin(ModelConfig(checkpoint={"form": str(folder), "weights": "ema"}))
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelError, match=r"^model\.checkpoint: .*ours: cannot be loaded: "):
        begin(ModelConfig(checkpoint=str(folder)))


def test_a_command_line_takes_the_place_of_a_file(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("model: {checkpoint: {form: runs/a, weights: ema}}\n")
    file = str(tmp_path / "a.yaml")
    assert load([file]).model.checkpoint == {"form": "runs/a", "weights": "ema"}
    assert load([file], ["model.checkpoint=runs/b"]).model.checkpoint == "runs/b"
    assert not load([file], ["model.checkpoint=null"]).model.checkpoint
