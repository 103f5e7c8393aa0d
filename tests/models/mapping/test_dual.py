"""VisionTextDualEncoderModel and ours: the same function, tensor by tensor, or refused by key."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, CLIPTextConfig, MobileBertConfig, TimmWrapperConfig, VisionTextDualEncoderConfig

from contrastive.errors import ModelError
from contrastive.export.source import Source
from contrastive.export.transformers import Transformers
from contrastive.models.build import build
from contrastive.models.forms import open_built, open_model
from contrastive.models.mapping import dual, kind_of, to_transformers
from contrastive.models.mapping.towers import timm_args
from contrastive.settings import ModelConfig
from tests.export.toys import BERT, BYTES, CONVNEXT, VIT, cfg, model_config, perturb, small_probe, source

TEST_VIT = {**CONVNEXT, "timm_model_name": "test_vit", "image_size": 160}
TEXTS = ["a photo of a cat", "", "two dogs " * 30]
Change = Callable[[dict[str, Any]], dict[str, Any]]


def perturbed(config: ModelConfig) -> Source:
    torch.manual_seed(0)
    built = build(config)
    perturb(built.model)
    built.model.eval().requires_grad_(False)
    return Source(built, "toy", {}, "")


def toy(folder: Path, model_cfg: dict[str, Any]) -> Source:
    """Return the model of a description; names that begin with FOLDER are in `folder`."""
    model_config("hf_text", folder)
    text = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in model_cfg["text_cfg"].items()}
    return perturbed(ModelConfig(model_cfg={**model_cfg, "text_cfg": text}))


def encoders(folder: Path, **changes: Any) -> Source:
    config = model_config("dual_timm_hf", folder)
    return perturbed(
        dataclasses.replace(config, **{name: {**getattr(config, name), **values} for name, values in changes.items()})
    )


def written(ours: Source, folder: Path) -> str:
    folder.mkdir()
    Transformers().write(ours, folder, small_probe())
    return f"hf:{folder}"


def apart(ours: Source, model: Any) -> float:
    """Return the largest distance of unit vectors."""
    size = ours.built.preprocess.size
    pixels, ids = torch.randn(3, 3, size, size), ours.built.tokenizer(TEXTS)
    expected = ours.embed(pixels, ids)
    is_clip = model.config.text_config.model_type == "clip_text_model"
    mask = None if is_clip else (ids != ours.built.tokenizer.pad_id).long()
    with torch.inference_mode():
        found = {
            "image": model.get_image_features(pixel_values=pixels).pooler_output,
            "text": model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output,
        }
    return max((F.normalize(found[k], dim=-1) - expected[k]).norm(dim=-1).max().item() for k in expected)


HELD = {
    "convnext": cfg(CONVNEXT),
    "timm_vit_avg": cfg({**TEST_VIT, "timm_pool": "avg"}),
    "timm_none": {**cfg({**TEST_VIT, "timm_pool": "avg", "timm_proj": "none"}), "embed_dim": 64},
    "vit_bert": cfg(VIT, {**BERT, "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
    "timm_bert_none": {
        **cfg(CONVNEXT, {**BERT, "hf_pooler_type": "cls_pooler", "hf_proj_type": None}),
        "embed_dim": 32,
    },
}


@pytest.mark.parametrize("name", [name for name in HELD if name != "convnext"])  # which comes back, below
def test_the_model_of_transformers_embeds_as_ours(name: str, tmp_path: Path):
    ours = toy(tmp_path, HELD[name])
    assert kind_of(ours.built).CLASS == "VisionTextDualEncoderModel"
    assert apart(ours, to_transformers(ours.built).model) < 1e-6


def test_two_encoders_of_ours_are_held_where_the_text_tower_pools_as_we_do(tmp_path: Path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 32, "use_bottleneck": False}
    config = MobileBertConfig(
        vocab_size=BYTES, classifier_activation=False, num_feedforward_networks=1, **sizes, **more
    )
    config.save_pretrained(tmp_path / "mobile")
    ours = encoders(tmp_path, text={"model": str(tmp_path / "mobile"), "pooling": "first"})
    assert kind_of(ours.built).CLASS == "VisionTextDualEncoderModel"
    assert apart(ours, to_transformers(ours.built).model) < 1e-6


@pytest.mark.parametrize("name", ["convnext", "timm_none"])
def test_it_comes_back_bit_by_bit(name: str, tmp_path: Path):
    ours = toy(tmp_path, HELD[name])
    back, _ = open_built(written(ours, tmp_path / "out"))
    before, after = ours.built.model.state_dict(), back.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    size = ours.built.preprocess.size
    assert back.preprocess.size == back.config.model_cfg["vision_cfg"]["image_size"] == size
    again = Source(back, "back", {}, "")
    pixels, ids = torch.randn(2, 3, size, size), ours.built.tokenizer(TEXTS)
    first, second = ours.embed(pixels, ids), again.embed(pixels, ids)
    assert all(torch.equal(first[tower], second[tower]) for tower in first)


@pytest.mark.parametrize("name", ["convnext", "vit_bert"])
def test_a_folder_is_evaluated_as_it_is(name: str, tmp_path: Path):
    ours = toy(tmp_path, HELD[name])
    loaded = open_model(written(ours, tmp_path / "out"))
    size = ours.built.preprocess.size
    pixels, ids = torch.randn(2, 3, size, size), loaded.tokenizer(TEXTS)
    expected = ours.embed(pixels, ours.built.tokenizer(TEXTS))
    with torch.inference_mode():
        assert (loaded.model.encode_image(pixels) - expected["image"]).norm(dim=-1).max() < 1e-6
        assert (loaded.model.encode_text(ids) - expected["text"]).norm(dim=-1).max() < 1e-6
    assert loaded.model.embed_dim == 24
    assert [len(part) > 2 for part in loaded.model.towers().values()] == [True, True]


def test_the_norm_stays_where_open_clip_leaves_it(tmp_path: Path):
    assert timm_args(toy(tmp_path, HELD["timm_vit_avg"]).built) == {"global_pool": "avg", "fc_norm": False}
    assert timm_args(source("timm_vit", tmp_path / "other").built) == {}


def test_no_path_of_this_machine_is_in_the_configuration(tmp_path: Path):
    ours = toy(tmp_path, HELD["vit_bert"])
    assert str(tmp_path) not in dual.config(ours.built).to_json_string()


REFUSED: list[tuple[dict[str, Any], str]] = [
    (cfg({**CONVNEXT, "timm_proj": "mlp"}), r"vision_cfg.timm_proj: 'mlp': .*one linear layer or none"),
    (cfg({**CONVNEXT, "timm_proj_bias": True}), r"vision_cfg.timm_proj_bias: True: .*without a bias"),
    (cfg({**CONVNEXT, "timm_pool": "avg", "timm_proj": "none"}), r"timm_proj: 'none': the tower is 320 wide"),
    (cfg(CONVNEXT, {"no_causal_mask": True}), r"text_cfg.no_causal_mask: True"),
    (cfg(CONVNEXT, {**BERT, "hf_proj_type": "mlp"}), r"text_cfg.hf_proj_type: 'mlp'"),
    (
        cfg(CONVNEXT, {**BERT, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}),
        r"text_cfg.hf_pooler_type: 'mean_pooler': .*reads the pooled output.* of BertModel is none",
    ),
    (cfg({**VIT, "ls_init_value": 0.1}, {**BERT, "hf_pooler_type": "cls_pooler"}), r"vision_cfg.ls_init_value: 0.1"),
]


@pytest.mark.parametrize(("model_cfg", "message"), REFUSED)
def test_what_the_class_has_not_is_refused_by_key(model_cfg: dict[str, Any], message: str, tmp_path: Path):
    assert re.search(message, str(dual.refusal(toy(tmp_path, model_cfg).built)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"model.text.pooling: 'mean': .*pooled output of its text tower, and that of BertModel is another"),
        ({"text": {"pooling": "first"}}, r"model.text.pooling: 'first': .*is another"),
    ],
)
def test_poolings_that_are_not_the_text_towers_own_are_refused(changes: dict[str, Any], message: str, tmp_path: Path):
    assert re.search(message, str(dual.refusal(encoders(tmp_path, **changes).built)))


def test_other_encoders_of_ours_are_refused_by_name(tmp_path: Path):
    found = str(dual.refusal(source("own_towers", tmp_path).built))
    assert found.startswith("model.image.name: 'cnn': VisionTextDualEncoderModel holds towers of timm")


def test_a_bias_of_the_logits_is_refused(tmp_path: Path):
    config = dataclasses.replace(model_config("convnext", tmp_path), init_logit_bias=-10.0)
    assert str(dual.refusal(build(config))).startswith("model.init_logit_bias: -10: ")


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({}, BertConfig(), r"text_config.model_type: 'bert': .*evaluation reads this one as it is"),
        ({"model_args": {"act_layer": "relu"}}, CLIPTextConfig(), r"vision_config.model_args.act_layer: 'relu'"),
    ],
)
def test_what_open_clip_has_not_is_refused_by_key(vision: dict[str, Any], text: Any, message: str):
    tower = TimmWrapperConfig(architecture="convnext_atto", hidden_size=320, **vision)
    config = VisionTextDualEncoderConfig(vision_config=tower.to_dict(), text_config=text.to_dict())
    with pytest.raises(ModelError, match=message):
        dual.model_config(config, {"visual_projection.weight": torch.eye(2)})
