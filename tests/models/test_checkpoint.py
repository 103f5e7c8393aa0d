import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from contrastive.errors import ModelError
from contrastive.models.build import Built, build
from contrastive.models.checkpoint import find, load, save, write_tensors
from contrastive.settings import ModelConfig
from tests import toys
from tests.encoders.test_huggingface import folder as bert  # noqa: F401  (a fixture)
from tests.modalities.test_text import word_level
from tests.models.test_build import MODEL_CFG

COMPOSED = ModelConfig(
    image={"name": "timm", "model": "test_convnext"},
    text={"name": "lstm", "width": 8},
    tokenizer={"context_length": 6},
    embed_dim=12,
    image_size=32,
    preprocess={"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"},
)


def same(built: Built, path: Path) -> None:
    loaded = load(path)
    assert not loaded.model.training
    picture, texts = Image.fromarray(toys.image(0, 40)), ["a cat", "dogs"]
    pixels = built.preprocess.evaluation_transform()(picture)
    assert torch.equal(loaded.transform(picture), pixels)
    assert torch.equal(loaded.tokenizer(texts), built.tokenizer(texts))
    built.model.eval()
    with torch.no_grad():
        for ours, theirs in (
            (loaded.model.encode_image(pixels[None]), built.model.encode_image(pixels[None])),
            (loaded.model.encode_text(loaded.tokenizer(texts)), built.model.encode_text(built.tokenizer(texts))),
            (loaded.model.logit_scale, built.model.logit_scale),
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("config", [ModelConfig(model_cfg=MODEL_CFG), ModelConfig(name="ViT-S-32-alt"), COMPOSED])
def test_a_checkpoint_alone_rebuilds_model_pixels_and_ids(tmp_path: Path, config: ModelConfig):
    built = build(config)
    same(built, save(tmp_path / "checkpoint", built, {"step": 3}))
    assert load(tmp_path / "checkpoint").info["step"] == 3


def test_a_pretrained_text_tower_and_tokenizer_travel_inside(tmp_path: Path, bert: Path):  # noqa: F811
    tokenizer = word_level(tmp_path / "tokenizer")
    text = {"name": "huggingface", "model": str(bert)}
    config = ModelConfig(
        image=COMPOSED.image,
        text=text,
        tokenizer={"name": str(tokenizer), "context_length": 6},
        embed_dim=12,
        image_size=32,
    )
    built = build(config)
    path = save(tmp_path / "checkpoint", built, {})
    for file in tokenizer.iterdir():
        file.unlink()
    same(built, path)


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path):
    path = save(tmp_path / "checkpoint", build(COMPOSED), {})
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}


def test_a_run_gives_its_newest_checkpoint(tmp_path: Path):
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    for step in (5, 10):
        save(tmp_path / "checkpoints" / f"step-{step:08d}", built, {"step": step})
    (tmp_path / "checkpoints" / ".step-00000020.writing").mkdir()  # a save that was cut off
    assert find(tmp_path).name == "step-00000010"


def damage_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def remove_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def garble_description(path: Path) -> None:
    (path / "checkpoint.json").write_text("{")


def newer_format(path: Path) -> None:
    file = path / "checkpoint.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize("damage", [damage_weights, remove_weights, garble_description, newer_format])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path, damage):
    path = save(tmp_path / "checkpoint", build(ModelConfig(model_cfg=MODEL_CFG)), {})
    damage(path)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_a_checkpoint_says_what_to_give(tmp_path: Path):
    with pytest.raises(ModelError, match="holds no checkpoint; give a run directory or one of its checkpoints"):
        find(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        find(tmp_path / "nowhere")


def test_the_moving_average_is_loaded_on_request_and_refused_where_there_is_none(tmp_path: Path):
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    folder = save(tmp_path / "checkpoint", built, {})
    with pytest.raises(ModelError, match=r"holds no moving average of the weights; train with train\.ema_decay"):
        load(folder, weights="ema")
    average = {name: value + 1 for name, value in built.model.state_dict().items()}
    write_tensors(folder / "ema.safetensors", average)
    assert torch.equal(load(folder, weights="ema").model.logit_scale, built.model.logit_scale + 1)
    assert torch.equal(load(folder).model.logit_scale, built.model.logit_scale)


def test_the_best_checkpoint_has_a_name(tmp_path: Path):
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    for step in (1, 2):
        save(tmp_path / "checkpoints" / f"step-{step}", built, {"step": step})
    rows = {"checkpoints": [{"step": 1, "value": 0.5, "checkpoint": "step-1"}]}
    (tmp_path / "checkpoints" / "best.json").write_text(json.dumps(rows))
    assert find(tmp_path / "checkpoints" / "best").name == "step-1"
    assert find(tmp_path).name == "step-2"
