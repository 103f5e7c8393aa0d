"""SiglipModel and open_clip's SigLIP: the same function, tensor by tensor, or refused by key."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import _registry as registry
from timm.models.vision_transformer import VisionTransformer
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig

from contrastive.errors import ModelError
from contrastive.export.source import Source
from contrastive.export.transformers import Transformers
from contrastive.models.build import build
from contrastive.models.forms import open_built
from contrastive.models.mapping import kind_of, siglip, to_transformers
from contrastive.settings import ModelConfig
from tests.export.toys import SIGLIP, model_config, perturb, small_probe, source

TOY = "vit_toy_patch8_siglip_32"


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def toy_name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A ViT of timm with attention pooling that is small, as long as a test runs."""

    def build_toy(pretrained: bool = False, **given: Any) -> VisionTransformer:
        shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.7, "img_size": 32, "patch_size": 8}
        return timm.create_model("vit_base_patch16_siglip_224", pretrained=pretrained, **{**shape, **given})

    monkeypatch.setitem(registry._model_entrypoints, TOY, build_toy)
    monkeypatch.setattr(timm, "list_models", lambda pattern: [TOY] if pattern == "vit_*_patch8_siglip_32" else [])
    assert registry.is_model(TOY)
    return TOY


def changed(folder: Path, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> Source:
    """Return the toy with some keys of its description changed."""
    config = model_config("siglip", folder)
    cfg = config.model_cfg
    whole = {
        **cfg,
        "text_cfg": {**cfg["text_cfg"], **(text or {})},
        "vision_cfg": {**cfg["vision_cfg"], **(vision or {})},
    }
    built = build(ModelConfig(model_cfg=whole))
    return Source(built, "changed", {}, "")


def test_the_model_of_transformers_embeds_as_ours(found: Source):
    assert kind_of(found.built).CLASS == "SiglipModel"
    model = to_transformers(found.built).model
    pixels, ids = torch.randn(5, 3, 32, 32), found.built.tokenizer(["a photo of a cat", "", "x" * 100])
    ours = found.embed(pixels, ids)
    with torch.inference_mode():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=ids).pooler_output
    assert (F.normalize(image, dim=-1) - ours["image"]).norm(dim=-1).max() < 1e-6
    assert (F.normalize(text, dim=-1) - ours["text"]).norm(dim=-1).max() < 1e-6
    assert model.logit_bias.item() == -10


def test_the_activation_of_each_tower_is_found_by_its_values(found: Source):
    config = siglip.config(found.built)
    assert config.vision_config.hidden_act == "gelu"
    assert config.text_config.hidden_act == ("gelu" if found.form == "siglip" else "gelu_pytorch_tanh")


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_layers_that_are_named_give_the_same_tensors(tower: str, found: Source):
    model = to_transformers(found.built).model
    kept: dict[str, Any] = {}

    def keep(module: Any, name: str) -> None:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:  # what a hook returns would replace the output
            kept[name] = output[0] if isinstance(output, tuple) else output

        module.get_submodule(name).register_forward_hook(hook)

    pairs = siglip.layers(found.built)[tower]  # type: ignore[index]
    for mine, theirs in pairs:
        keep(found.inner, mine)
        keep(model, theirs)
    pixels, ids = torch.randn(2, 3, 32, 32), found.built.tokenizer(["a", "b"])
    with torch.inference_mode():
        found.embed(pixels, ids)
        model.get_image_features(pixel_values=pixels)
        model.get_text_features(input_ids=ids)
    for mine, theirs in pairs:
        assert torch.allclose(kept[mine].reshape(kept[theirs].shape), kept[theirs], atol=1e-5), (mine, theirs)


def test_it_comes_back_bit_by_bit(toy_name: str, tmp_path: Path):
    vision = {**SIGLIP, "timm_model_name": toy_name}
    ours = changed(tmp_path, {"act_kwargs": {"approximate": "tanh"}}, vision)
    perturb(ours.built.model)
    (tmp_path / "out").mkdir()
    Transformers().write(ours, tmp_path / "out", small_probe())
    back, _ = open_built(f"hf:{tmp_path / 'out'}")
    before, after = ours.built.model.state_dict(), back.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for key in ("timm_model_name", "timm_pool", "timm_proj", "image_size"):
        assert back.config.model_cfg["vision_cfg"][key] == ours.built.config.model_cfg["vision_cfg"][key]
    texts = ["A photo, of a cat!", "", "x" * 50]
    assert torch.equal(back.tokenizer(texts), ours.built.tokenizer(texts))


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        ({"pool_type": "argmax"}, {}, r"text_cfg.pool_type: 'argmax': SiglipModel takes the last token"),
        ({"no_causal_mask": False}, {}, r"text_cfg.no_causal_mask: False: SiglipModel reads its text in both"),
        ({"proj_bias": False}, {}, r"text_cfg.proj_bias: False: SiglipModel has a bias"),
        ({"ls_init_value": 0.1}, {}, r"text_cfg.ls_init_value: 0.1: SiglipModel has no layer scale"),
        ({}, {"timm_proj": "linear"}, r"vision_cfg.timm_proj: 'linear': SiglipModel has no projection of images"),
        (
            {},
            {"timm_model_name": "test_vit", "timm_pool": "map"},
            r"timm_model_name: 'test_vit': SiglipModel has no visual.trunk.cls_token",
        ),
    ],
)
def test_what_the_class_has_not_is_refused_by_key(
    text: dict[str, Any], vision: dict[str, Any], message: str, tmp_path: Path
):
    assert re.search(message, str(siglip.refusal(changed(tmp_path, text, vision).built)))


def test_norms_that_differ_within_a_tower_are_refused(tmp_path: Path):
    ours = source("siglip", tmp_path)
    ours.inner.visual.trunk.blocks[1].norm2.eps = 1e-3
    assert "several eps" in str(siglip.refusal(ours.built))


def test_a_model_without_a_bias_of_its_logits_is_refused(tmp_path: Path):
    config = model_config("siglip", tmp_path)
    cfg = {key: value for key, value in config.model_cfg.items() if key != "init_logit_bias"}
    assert "model.init_logit_bias: is not set" in str(siglip.refusal(build(ModelConfig(model_cfg=cfg))))


def test_names_of_timm_are_found_by_shape_and_activation():
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    found = SiglipVisionConfig(**sizes, image_size=224, patch_size=16, hidden_act="gelu")
    assert siglip._timm_name(found) == "vit_base_patch16_siglip_224"
    found = SiglipVisionConfig(**sizes, image_size=224, patch_size=16)
    with pytest.raises(
        ModelError, match=r"hidden_act: 'gelu_pytorch_tanh': timm's vit_base.*computes gelu, so.*hf-hub"
    ):
        siglip._timm_name(found)
    with pytest.raises(
        ModelError, match=r"vision_config: timm has no SigLIP tower of this shape \(768 wide, 12 deep, 100"
    ):
        siglip._timm_name(SiglipVisionConfig(**sizes, image_size=100))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("text_config", "hidden_act", "relu", r"text_config.hidden_act: 'relu'"),
        ("vision_config", "attention_dropout", 0.1, r"vision_config.attention_dropout: 0.1"),
        ("vision_config", "vision_use_head", False, r"vision_config.vision_use_head: False"),
        ("text_config", "projection_size", 7, r"text_config.projection_size: 7: texts and images \(768\)"),
    ],
)
def test_what_open_clip_has_not_is_refused_by_key(part: str, key: str, value: Any, message: str):
    config = SiglipConfig()
    setattr(getattr(config, part), key, value)
    with pytest.raises(ModelError, match=message):
        siglip.model_config(config, {})


def test_the_ratio_gives_the_width_that_it_was_made_of():
    assert all(int(width * siglip.ratio(width, hidden)) == hidden for width in (48, 1152) for hidden in range(64, 5000))


def test_swapped_queries_and_values_change_the_embeddings(found: Source):
    model: SiglipModel = to_transformers(found.built).model
    attention = model.text_model.encoder.layers[0].self_attn
    attention.q_proj, attention.v_proj = attention.v_proj, attention.q_proj
    ids = found.built.tokenizer(["a photo of a cat"])
    with torch.inference_mode():
        text = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    assert (text - found.embed(None, ids)["text"]).norm() > 1e-3
