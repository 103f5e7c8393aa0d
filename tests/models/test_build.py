import json
import logging
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from contrastive.errors import ConfigError, ModelError
from contrastive.models.build import build, check
from contrastive.settings import ModelConfig
from tests import toys

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture
def local_dir(tmp_path: Path) -> Path:
    """A random open_clip model on disk, as a downloaded one would lie there."""
    torch.manual_seed(1)
    model = open_clip.CLIP(**MODEL_CFG)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS}))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_a_local_folder_gives_open_clips_weights_pixels_and_ids(local_dir: Path):
    built = build(ModelConfig(name=f"local-dir:{local_dir}"))
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{local_dir}")
    picture, texts = Image.fromarray(toys.image(0, 50)), ["a cat", "two dogs"]
    pixels = built.preprocess.evaluation_transform()(picture)
    assert torch.equal(pixels, transform(picture))
    ids = built.tokenizer(texts)
    assert torch.equal(ids, open_clip.get_tokenizer(f"local-dir:{local_dir}")(texts))
    with torch.no_grad():
        built.model.eval()
        theirs.eval()
        torch.testing.assert_close(
            built.model.encode_image(pixels[None]), theirs.encode_image(pixels[None], normalize=True)
        )
        torch.testing.assert_close(built.model.encode_text(ids), theirs.encode_text(ids, normalize=True))
    assert built.model.logit_scale.shape == (1,)
    torch.testing.assert_close(built.model.logit_scale[0], theirs.logit_scale)


def test_a_local_folder_without_weights_is_refused_not_random(local_dir: Path):
    (local_dir / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded: Required pretrained weights"):
        build(ModelConfig(name=f"local-dir:{local_dir}"))


def test_a_model_cfg_of_ours_is_the_model_open_clip_builds():
    torch.manual_seed(0)
    ours = build(ModelConfig(model_cfg=MODEL_CFG)).model.state_dict()
    torch.manual_seed(0)
    theirs = open_clip.CLIP(**MODEL_CFG, nonscalar_logit_scale=True).state_dict()
    assert {name.removeprefix("inner."): value.shape for name, value in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }
    assert all(torch.equal(ours[f"inner.{name}"], value) for name, value in theirs.items())


def test_preprocessing_can_be_overridden_and_keeps_the_models_size():
    built = build(ModelConfig(model_cfg=MODEL_CFG, preprocess={"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}))
    reference = image_transform_v2(PreprocessCfg(size=32, mean=(0.5,) * 3, std=(1.0,) * 3), is_train=False)
    picture = Image.fromarray(toys.image(0, 40))
    assert torch.equal(built.preprocess.evaluation_transform()(picture), reference(picture))


def test_a_builtin_name_is_built_with_its_own_tokenizer_length():
    built = build(ModelConfig(name="ViT-S-32-alt"))
    assert (
        built.tokenizer.spec.context_length == open_clip.get_model_config("ViT-S-32-alt")["text_cfg"]["context_length"]
    )
    assert built.config.name is None  # the description rebuilds it without the name
    assert built.config.model_cfg["embed_dim"] == 256


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            "model: give one of model.checkpoint, model.name, model.model_cfg, or both model.image and model.text; "
            "none is set",
        ),
        ({"name": "RN50", "model_cfg": MODEL_CFG}, "model.name and model.model_cfg is set"),
        ({"name": "ViT-B-33"}, "model.name: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32?"),
        ({"pretrained": "openai", "model_cfg": MODEL_CFG}, "model.pretrained: needs model.name"),
        ({"model_cfg": {"embed_dim": 3, "text_cfg": {}}}, "model.model_cfg.vision_cfg: is missing"),
        ({"image": {"name": "timm", "model": "test_vit"}}, "model.text: give it a name; known:"),
        ({"name": "RN50", "preprocess": {"maen": [1]}}, "model.preprocess.maen: unknown key; did you mean mean?"),
        (
            {"name": "RN50", "preprocess": {"resize_mode": "crop"}},
            "'crop' is not one of 'shortest', 'longest', 'squash'",
        ),
    ],
)
def test_a_model_section_is_refused_at_the_door(fields: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        check(ModelConfig(**fields))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": "RN50", "pretrained": "nope"}, ModelError, "model.name: 'RN50' cannot be loaded"),
        ({"name": "local-dir:/nowhere"}, ModelError, "cannot be loaded: Directory specified"),
        ({"name": "hf-hub:no/such"}, ModelError, "model.name: 'hf-hub:no/such' cannot be loaded"),
        ({"model_cfg": {**MODEL_CFG, "text_cfg": {"widht": 3}}}, ConfigError, "open_clip refused it: .*widht"),
    ],
)
def test_a_model_that_does_not_exist_is_one_line(fields: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message) as caught:
        build(ModelConfig(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [{"model_cfg": MODEL_CFG}, {"name": "ViT-S-32-alt"}])
def test_temperature_and_bias_start_where_they_are_told(source: dict[str, Any]):
    model = build(ModelConfig(**source, init_temperature=0.1, init_logit_bias=-10.0)).model
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias.tolist() == [-10.0]
    untold = build(ModelConfig(**source)).model
    assert untold.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert untold.logit_bias is None


def test_a_model_cfg_keeps_its_own_start_when_untold():
    cfg = {**MODEL_CFG, "init_logit_scale": 2.0, "init_logit_bias": -5.0}
    model = build(ModelConfig(model_cfg=cfg)).model
    assert (model.logit_scale.item(), model.logit_bias.item()) == (2.0, -5.0)


def test_building_leaves_the_loggers_as_they_were():
    before = logging.getLogger().level
    build(ModelConfig(name="ViT-S-32-alt"))
    with pytest.raises(ModelError):
        build(ModelConfig(name="RN50", pretrained="nope"))
    assert logging.getLogger().level == before
