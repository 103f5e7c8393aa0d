import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from contrastive.errors import ModelError, UserError
from contrastive.models.build import build
from contrastive.models.checkpoint import save
from contrastive.models.teacher import Teacher, check, load
from contrastive.settings import ModelConfig
from tests import toys
from tests.models.test_build import MODEL_CFG, PREPROCESS, local_dir  # noqa: F401  (a fixture)

CONVOLUTIONS = {**MODEL_CFG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}
TEXT = torch.randint(1, 400, (3, 12), generator=torch.Generator().manual_seed(0))


def teacher(cfg: dict[str, Any] = MODEL_CFG) -> Teacher:
    torch.manual_seed(0)
    return Teacher(build(ModelConfig(model_cfg=cfg)), "a toy")


def images(size: int = 32) -> torch.Tensor:
    return torch.stack([torch.from_numpy(toys.image(i, size)) for i in range(3)]).permute(0, 3, 1, 2).float() / 255


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(PREPROCESS[name])[:, None, None] for name in ("mean", "std"))
    return (image - mean) / std


def resized(image: torch.Tensor, size: int, how: Image.Resampling) -> torch.Tensor:
    """Return Pillow's resize of each channel in float32."""
    planes = [Image.fromarray(plane.numpy(), "F").resize((size, size), how) for plane in image.flatten(0, 1)]
    return torch.stack([torch.from_numpy(np.array(plane)) for plane in planes]).view(*image.shape[:2], size, size)


def test_a_downloaded_model_teaches_open_clips_own_features(local_dir: Path):  # noqa: F811
    found = load(ModelConfig(teacher={"name": f"local-dir:{local_dir}"}))
    theirs = open_clip.create_model(f"local-dir:{local_dir}").eval()
    features = found.features([images()], [TEXT])
    assert list(features) == ["teacher_image_features", "teacher_text_features", "teacher_logit_scale"]
    with torch.no_grad():
        image = theirs.encode_image(normalised(images()), normalize=True)
        text = theirs.encode_text(TEXT, normalize=True)
    torch.testing.assert_close(features["teacher_image_features"], image)
    torch.testing.assert_close(features["teacher_text_features"], text)
    torch.testing.assert_close(features["teacher_logit_scale"], theirs.logit_scale.detach().reshape(1))
    assert (found.source, found.embed_dim) == (f"local-dir:{local_dir}", 16)


def test_a_checkpoint_and_the_run_that_holds_it_teach_what_was_saved(tmp_path: Path):
    built = build(ModelConfig(model_cfg=MODEL_CFG, preprocess={"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}))
    folder = save(tmp_path / "checkpoints" / "step-00000003", built, {"step": 3})
    built.model.eval()
    with torch.no_grad():
        expected = built.model.encode_image(images() - 0.5)
    for path in (folder, tmp_path):
        found = load(ModelConfig(teacher={"checkpoint": str(path)}))
        torch.testing.assert_close(found.features([images()], [TEXT])["teacher_image_features"], expected)
        assert found.source == str(folder)


@pytest.mark.parametrize("size", [24, 50])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_of_another_size_are_resized_as_pillow_does(size: int, interpolation: str):
    built = build(ModelConfig(model_cfg=MODEL_CFG, preprocess={**PREPROCESS, "interpolation": interpolation}))
    found = Teacher(built, "a toy").features([images(size)], [TEXT])["teacher_image_features"]
    input_ = normalised(resized(images(size), 32, Image.Resampling[interpolation.upper()]).clamp(0, 1))
    with torch.no_grad():
        expected = built.model.eval().encode_image(input_)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_batch_in_pieces_has_the_features_of_the_whole():
    model = teacher()
    whole = model.features([images()], [TEXT])
    for name, value in model.features(images().split(2), TEXT.split(1)).items():
        torch.testing.assert_close(value, whole[name])


def test_nothing_of_a_teacher_is_trained_or_moves():
    model = teacher(CONVOLUTIONS).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (model.features([images()], [TEXT]) for _ in range(2))
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(value.requires_grad for value in first.values())


def test_a_teacher_leaves_the_random_state_as_it_was(local_dir: Path):  # noqa: F811
    before = torch.get_rng_state()
    load(ModelConfig(teacher={"name": f"local-dir:{local_dir}"}))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_teacher_is_none():
    check(ModelConfig())
    assert load(ModelConfig()) is None


def test_a_students_checkpoint_does_not_speak_of_its_teacher(tmp_path: Path):
    config = ModelConfig(model_cfg=MODEL_CFG, teacher={"checkpoint": "runs/large"})
    built = build(config)
    assert built.config == dataclasses.replace(config, teacher={})
    path = save(tmp_path / "checkpoint", built, {})
    assert "runs/large" not in json.dumps(json.loads((path / "checkpoint.json").read_text()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chekpoint": "a"}, "model.teacher.chekpoint: unknown key; did you mean checkpoint?"),
        ({"name": 3}, "model.teacher.name: 3 is not str | None"),
        (
            {"pretrained": "openai"},
            "model.teacher: give one of checkpoint (a run or one of its checkpoints) and name (an open_clip model); "
            "none is set",
        ),
        (
            {"checkpoint": "a", "name": "RN50"},
            "model.teacher: give one of checkpoint (a run or one of its checkpoints) and name (an open_clip model); "
            "both are set",
        ),
        (
            {"checkpoint": "/nowhere"},
            "model.teacher.checkpoint: /nowhere: does not exist; give a run directory or one of its checkpoints/step-…",
        ),
        (
            {"checkpoint": "a", "pretrained": "openai"},
            "model.teacher.pretrained: a checkpoint brings its own weights; remove it",
        ),
        (
            {"name": "ViT-B-33", "pretrained": "openai"},
            "model.teacher.name: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32?",
        ),
        ({"name": "ViT-B-32"}, "model.teacher: ViT-B-32 has random weights; name its pretrained tag"),
        (
            {"name": "hf-hub:some/model", "pretrained": "openai"},
            "model.teacher.pretrained: hf-hub:some/model brings its own weights; remove it",
        ),
        (
            {"name": "local-dir:/nowhere"},
            "model.teacher.name: /nowhere holds no open_clip_config.json; give the folder of a saved open_clip model",
        ),
    ],
)
def test_a_teacher_is_refused_at_the_door(given: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        check(ModelConfig(teacher=given))
    assert str(caught.value) == message


def test_a_teacher_that_can_be_had_is_accepted(local_dir: Path):  # noqa: F811
    for given in ({"name": f"local-dir:{local_dir}"}, {"name": "RN50", "pretrained": "openai"}, {"name": "hf-hub:a/b"}):
        check(ModelConfig(teacher=given))


def test_weights_that_cannot_be_had_are_named_in_one_line(local_dir: Path, tmp_path: Path):  # noqa: F811
    folder = save(tmp_path / "checkpoint", build(ModelConfig(model_cfg=MODEL_CFG)), {})
    (folder / "model.safetensors").unlink()
    (local_dir / "open_clip_model.safetensors").unlink()
    for given, start in (
        ({"checkpoint": str(folder)}, f"model.teacher.checkpoint: {folder}: cannot be loaded: "),
        ({"name": f"local-dir:{local_dir}"}, f"model.teacher.name: 'local-dir:{local_dir}' cannot be loaded: "),
        ({"name": "RN50", "pretrained": "nope"}, "model.teacher.name: 'RN50' cannot be loaded: "),
    ):
        with pytest.raises(ModelError) as caught:
            load(ModelConfig(teacher=given))
        assert str(caught.value).startswith(start)
        assert "\n" not in str(caught.value)
