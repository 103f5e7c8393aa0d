"""CLIPModel and open_clip's own transformers, there and back, inside one process."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from contrastive.errors import ModelError
from contrastive.models.build import build
from contrastive.models.forms import open_built, open_model
from contrastive.models.mapping import clip, clip_config, to_transformers
from contrastive.models.mapping.inputs import to_preprocess, to_tokenizer
from contrastive.settings import ModelConfig
from tests.export.toys import TEXT, VIT, byte_tokenizer, cfg, source

SMALL = {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4}


def foreign(folder: Path, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> Path:
    """Write a CLIPModel as another project may have: what is not said is transformers' default."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 300, "max_position_embeddings": 24, "eos_token_id": 258, **(text or {})},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8, **(vision or {})},
        projection_dim=20,
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    byte_tokenizer(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "text",
    [{}, {"eos_token_id": 2}, {"eos_token_id": 299}, {"hidden_act": "gelu", "layer_norm_eps": 1e-3}],
    ids=["eos", "argmax", "last", "gelu"],
)
def test_a_clip_model_becomes_ours_and_computes_the_same(text: dict[str, Any], tmp_path: Path):
    vision = {"hidden_act": text.get("hidden_act", "quick_gelu"), "layer_norm_eps": 1e-6}
    folder = str(foreign(tmp_path, text, vision))
    theirs = transformers.CLIPModel.from_pretrained(folder)
    built, _ = open_built(folder)
    built.model.eval()
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(3, 250, (3, 24))
    ids[:, 9], ids[1, 5] = theirs.config.text_config.eos_token_id, 257
    with torch.inference_mode():
        image = theirs.get_image_features(pixel_values=pixels).pooler_output
        words = theirs.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(built.model.encode_image(pixels), F.normalize(image, dim=-1), rtol=0, atol=1e-6)
        torch.testing.assert_close(built.model.encode_text(ids), F.normalize(words, dim=-1), rtol=0, atol=1e-6)


def test_weights_that_came_in_go_out_bit_by_bit(tmp_path: Path):
    folder = foreign(tmp_path)
    built, _ = open_built(f"hf:{folder}")
    theirs, back = transformers.CLIPModel.from_pretrained(folder), to_transformers(built).model
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in theirs.state_dict().items())
    before, after = theirs.config.to_dict(), back.config.to_dict()
    said_by_us = {"bos_token_id", "pad_token_id", "eos_token_id", "initializer_range", "projection_dim", "dtype"}
    for part in ("text_config", "vision_config"):
        assert {k: v for k, v in before[part].items() if k not in said_by_us} == {
            k: v for k, v in after[part].items() if k not in said_by_us
        }


def test_the_model_that_is_evaluated_and_the_one_that_is_rebuilt_read_captions_alike(tmp_path: Path):
    folder = str(foreign(tmp_path))
    as_it_is, (rebuilt, _) = open_model(folder), open_built(folder)
    texts = ["a cat", "Two dogs, one of them barks", "x" * 50]
    assert torch.equal(as_it_is.tokenizer(texts), rebuilt.tokenizer(texts))


@pytest.mark.parametrize(
    ("text", "vision", "said"),
    [
        ({"hidden_act": "gelu"}, {}, r"text_config.hidden_act: 'gelu' beside 'quick_gelu' of vision_config"),
        ({"hidden_act": "relu"}, {"hidden_act": "relu"}, r"vision_config.hidden_act: 'relu': .*one of gelu, "),
        ({}, {"num_channels": 1}, r"vision_config.num_channels: 1: open_clip takes images of 3 channels"),
    ],
)
def test_what_open_clip_has_no_equal_of_is_refused_by_key(
    text: dict[str, Any], vision: dict[str, Any], said: str, tmp_path: Path
):
    folder = foreign(tmp_path, text, vision)
    with pytest.raises(ModelError, match=rf"hf:{folder}: cannot be rebuilt as a model of open_clip: {said}"):
        open_built(f"hf:{folder}")


def test_several_end_tokens_are_refused():
    config = transformers.CLIPConfig(text_config={"eos_token_id": [5, 6]})
    with pytest.raises(ModelError, match=r"text_config.eos_token_id: \[5, 6\]: open_clip pools at one id"):
        clip_config.model_config(config, {})


@pytest.mark.parametrize("inner", range(20, 180, 7))
def test_the_width_of_the_mlp_survives_the_ratio(inner: int):
    for width in (48, 56, 100, 768):
        assert int(width * clip_config._ratio(width, inner)) == inner


REFUSED = [
    ({"vision": {"qk_norm": True}}, r"vision_cfg.qk_norm: True: CLIPModel does not normalise queries"),
    ({"vision": {"no_ln_pre": True}}, r"vision_cfg.no_ln_pre: True: CLIPModel always normalises"),
    ({"vision": {"pool_type": "avg"}}, r"vision_cfg.pool_type: 'avg': CLIPModel pools images at the class token"),
    ({"vision": {"block_type": "custom"}}, r"vision_cfg.block_type: 'custom': CLIPModel has only one kind"),
    ({"vision": {"norm_kwargs": {"eps": 1e-6, "bias": False}}}, r"vision_cfg.norm_kwargs: .*'bias': False"),
    ({"vision": {"patch_size": [8, 4]}}, r"vision_cfg.patch_size: \[8, 4\]: CLIPModel has square patches"),
    ({"text": {"pool_type": "last"}}, r"text_cfg.pool_type: 'last': CLIPModel pools"),
    ({"text": {"no_causal_mask": True}}, r"text_cfg.no_causal_mask: True: CLIPModel has a causal text tower"),
    ({"text": {"proj_bias": True}}, r"text_cfg.proj_bias: True: CLIPModel projects without a bias"),
    ({"text": {"proj_type": "none", "width": 24}}, r"text_cfg.proj_type: 'none': CLIPModel always projects"),
    ({"text": {"ls_init_value": 0.1}}, r"text_cfg.ls_init_value: 0.1: CLIPModel has no layer scale"),
    ({"text": {"pool_type": "eos", "eos_id": 2}}, r"text_cfg.eos_id: 2: CLIPModel takes it for the largest id"),
    ({"text": {"embed_cls": True}}, r"text_cfg.embed_cls: True: CLIPModel has no class token"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_key_that_clip_model_lacks_is_named(change: dict[str, Any], said: str):
    model_cfg = cfg({**VIT, **change.get("vision", {})}, {**TEXT, "vocab_size": 49408, **change.get("text", {})})
    built = build(ModelConfig(model_cfg={**model_cfg, "custom_text": True}))
    assert re.search(f"model.model_cfg.{said}", clip.refusal(built) or "")


def test_every_key_of_open_clip_is_either_held_or_refused_with_a_reason():
    named = {field.name for schema in (CLIPVisionCfg, CLIPTextCfg) for field in fields(schema)}
    generic = {"output_tokens", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"}
    assert named - clip.HELD - set(clip.REASONS) - generic == set()


def test_a_training_only_key_is_held():
    built = build(ModelConfig(model_cfg=cfg({**VIT, "patch_dropout": 0.5, "block_type": "default"})))
    assert clip.refusal(built) is None


def test_the_tensors_of_clip_are_all_in_pairs(tmp_path: Path):
    built = source("vit_quick_gelu", tmp_path).built
    converted = to_transformers(built)
    theirs = {
        name for pair in clip.pairs(built) for name in ([pair.theirs] if isinstance(pair.theirs, str) else pair.theirs)
    }
    assert theirs == set(converted.model.state_dict())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_normalize": False}, r"do_normalize: False: our preprocessing always has it True"),
        ({"resample": 1}, r"resample: 1: ours is 2 \(bilinear\) or 3 \(bicubic\)"),
        ({"rescale_factor": 1 / 127.5}, r"rescale_factor: 0.0078"),
        (
            {"size": {"shortest_edge": 36}},
            r"size \{'shortest_edge': 36\}, crop_size .*: ours resizes the shortest edge",
        ),
        ({"do_center_crop": False}, r"size \{'shortest_edge': 32\}, no crop"),
        ({"do_center_crop": False, "size": {"height": 32, "width": 40}}, r"'width': 40"),
    ],
)
def test_an_image_processor_that_ours_cannot_be_is_refused_by_key(settings: dict[str, Any], said: str):
    given = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, **settings}
    with pytest.raises(ModelError, match=said):
        to_preprocess(transformers.CLIPImageProcessor(**given))


def test_a_processor_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"image_processor_type: .*BlipImageProcessor"):
        to_preprocess(transformers.BlipImageProcessor())


def test_siglips_processor_squashes():
    found = to_preprocess(transformers.SiglipImageProcessor(size={"height": 32, "width": 32}))
    assert (found.size, found.resize_mode, found.interpolation) == (32, "squash", "bicubic")
    assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path):
    byte_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.pad_token = None
    with pytest.raises(ModelError, match=r"tokenizer: cannot be used: .*padding"):
        to_tokenizer(theirs, str(tmp_path), 16)
