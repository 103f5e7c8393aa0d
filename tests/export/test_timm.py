"""timm's folder: loaded by timm in a process of its own, the same image tower."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from contrastive.errors import ModelError
from contrastive.export.parity import Claim, verify_all
from contrastive.export.source import Source
from contrastive.models.build import build
from contrastive.settings import ModelConfig
from tests.export import toys
from tests.export.toys import VIT, Exported, cfg, exporter, small_probe, source


def tower(name: str, size: int, **more: Any) -> dict[str, Any]:
    given = {"timm_model_name": name, "timm_model_pretrained": False, "image_size": size}
    return {"model_cfg": cfg({**given, "timm_pool": "", "timm_proj": "linear", **more})}


RESNET = {"image_size": 64, "layers": [3, 4, 6, 3], "width": 8, "patch_size": None}
MORE: dict[str, dict[str, Any]] = {
    "timm_vit_average": {"model_cfg": cfg({**VIT, "pool_type": "avg"})},
    "timm_clipa": {
        "model_cfg": cfg({**VIT, "pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True}),
        "preprocess": {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    },
    "timm_late_norm": {"model_cfg": cfg({**VIT, "final_ln_after_pool": True, "mlp_ratio": 2.5})},
    "timm_resnet50": {"model_cfg": cfg(RESNET)},
    "timm_vit_averaged": tower("test_vit", 160, timm_pool="avg", timm_proj_bias=True),
    "timm_map": tower("test_vit3", 160, timm_pool="map", timm_proj="none"),
    "timm_own_classifier": tower("test_resnet", 96, timm_pool="avg", timm_proj=""),
    "timm_encoder": {
        "image": {"name": "timm", "model": "test_vit", "options": {"depth": 2, "init_values": 0.1}},
        "text": {"name": "lstm", "width": 24},
        "embed_dim": 24,
        "image_size": 48,
        "preprocess": {"orientation": "upright"},
    },
}
MORE["timm_map"]["model_cfg"]["embed_dim"] = 96  # of test_vit3: nothing projects what it pools
OF_TOYS = (
    "vit",
    "vit_quick_gelu",
    "vit_wide",
    "vit_custom_text",
    "vit_layer_scale",
    "vit_bias",
    "convnext",
    "timm_vit",
)
HELD = (*OF_TOYS, *MORE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Exports by name, and one that says of itself that it has another activation: all read by one process."""
    folder, one = tmp_path_factory.mktemp("timm"), exporter("timm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "MODELS", {**toys.MODELS, **MORE})
        sources = {name: source(name, tmp_path_factory.mktemp("files")) for name in HELD}
    claims = {name: claim(found, folder / name) for name, found in sources.items()}
    claims["activation"] = changed(sources["vit"], folder / "activation", "activation")
    outcomes = dict(zip(claims, verify_all(list(claims.values())), strict=True))
    for found in sources.values():
        one.check(found)
    return {name: Exported(c.source, c.folder, c.written, outcomes[name]) for name, c in claims.items()}


def claim(found: Source, folder: Path) -> Claim:
    folder.mkdir()
    one, probe = exporter("timm"), small_probe()
    probe = replace(probe, images=[probe.images[number] for number in (1, 2, 4, 5)])  # no two shapes are alike
    return Claim(found, one, one.write(found, folder, probe), folder, probe)


def changed(found: Source, folder: Path, what: str) -> Claim:
    """Return the claim that a folder holds a model, although something in it was changed."""
    made = claim(found, folder)
    config = json.loads((folder / "config.json").read_text())
    if what == "activation":
        config["model_args"]["act_layer"] = "quick_gelu"
    elif what == "eps":
        config["architecture"] = "vit_base_patch16_224"
    else:
        state = load_file(folder / "model.safetensors")
        q, k, v = state["blocks.1.attn.qkv.weight"].chunk(3)
        state["blocks.1.attn.qkv.weight"] = torch.cat([v, k, q])
        save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize("name", HELD)
def test_timm_embeds_as_we_do_in_a_fresh_process(name: str, exported: dict[str, Exported]):
    parity = exported[name].parity
    assert parity.towers["image"].max_distance <= 1e-5
    assert parity.pixels == 0
    assert not {"contrastive", "open_clip", "transformers"} & set(parity.read_with)


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ({**VIT, "attentional_pool": True, "attn_pooler_heads": 4}, r"vision_cfg.attentional_pool True: .*onnx"),
        ({**VIT, "qk_norm": True}, r"vision_cfg.qk_norm True"),
        ({**VIT, "norm_kwargs": {"eps": 1e-6}}, r"vision_cfg.norm_kwargs {'eps': 1e-06}"),
        ({**RESNET, "layers": [1, 1, 1, 1]}, r"vision_cfg.layers \[1, 1, 1, 1\]: timm has .*\[3, 4, 6, 3\]"),
        ({**RESNET, "width": 12, "head_width": 64}, r"vision_cfg.width 12: .* 8 divides"),
        ({**RESNET, "head_width": 32}, r"vision_cfg.head_width 32"),
        (
            tower("resnet18", 96, timm_pool="rot_attn", timm_proj="")["model_cfg"]["vision_cfg"],
            r"vision_cfg.timm_pool 'rot_attn'",
        ),
        (tower("test_vit", 160, timm_proj="mlp")["model_cfg"]["vision_cfg"], r"vision_cfg.timm_proj 'mlp'"),
    ],
)
def test_a_tower_that_timm_lacks_is_refused_by_its_key(vision: dict[str, Any], said: str, tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "MODELS", {"refused": {"model_cfg": cfg(vision)}})
        with pytest.raises(ModelError, match=said):
            exporter("timm").check(source("refused", tmp_path))


def test_own_towers_are_refused_by_name(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model.image.name 'cnn': timm has no such tower; export to .*onnx"):
        exporter("timm").check(source("own_towers", tmp_path))


@pytest.mark.parametrize("fill", [0, 128])
def test_a_border_is_held_in_the_mean_colour_alone(fill: int, tmp_path: Path):
    preprocess = {"resize_mode": "longest", "fill_color": fill, "mean": [0.5] * 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "MODELS", {"border": {"model_cfg": cfg(VIT), "preprocess": preprocess}})
        found = source("border", tmp_path)
    if fill == 128:
        exporter("timm").check(found)
    else:
        with pytest.raises(ModelError, match=r"resize_mode 'longest': .* fill_color 0"):
            exporter("timm").check(found)


def test_another_activation_is_refused_and_the_layer_named(exported: dict[str, Exported]):
    layer = r"the first layer that differs is blocks.0.mlp.act \(ours: visual.transformer.resblocks.0.mlp.gelu\)"
    with pytest.raises(ModelError, match=rf"the image tower differs: .* {layer}"):
        _ = exported["activation"].parity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [("eps", "the image tower differs"), ("order", r"differs: .* first layer that differs is blocks.1.attn ")],
)
def test_another_tower_is_refused(what: str, said: str, tmp_path: Path):
    (found,) = verify_all([changed(source("vit", tmp_path), tmp_path / what, what)])
    assert isinstance(found, ModelError)
    with pytest.raises(ModelError, match=said):
        raise found


@pytest.mark.parametrize("name", ["vit", "timm_resnet50", "convnext", "timm_encoder"])
def test_a_fresh_head_stands_on_the_same_features(name: str, exported: dict[str, Exported]):
    place, size = f"local-dir:{exported[name].folder}", exported[name].source.built.preprocess.size
    pixels = torch.randn(2, 3, size, size)
    whole, fresh, bare = (
        timm.create_model(place, pretrained=True, **given).eval()
        for given in ({}, {"num_classes": 10}, {"num_classes": 0})
    )
    with torch.inference_mode():
        features = bare(pixels)
        assert fresh(pixels).shape == (2, 10)
        assert torch.allclose(whole.get_classifier()(features), whole(pixels), atol=1e-6)
        assert torch.equal(fresh.forward_head(fresh.forward_features(pixels), pre_logits=True), features)


def test_another_input_size_loads(exported: dict[str, Exported]):
    model = timm.create_model(f"local-dir:{exported['vit'].folder}", pretrained=True, img_size=64).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 24)


def test_transformers_opens_the_same_folder(exported: dict[str, Exported]):
    one = exported["timm_clipa"]
    model, processor = AutoModel.from_pretrained(one.folder).eval(), AutoImageProcessor.from_pretrained(one.folder)
    image = small_probe().images[1]
    ours = one.source.built.preprocess.evaluation_transform()(image)[None]
    bare = timm.create_model(f"local-dir:{one.folder}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        assert torch.equal(model(ours).pooler_output, bare(ours))
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], ours)


def test_nothing_is_said_of_a_donors_weights(exported: dict[str, Exported]):
    content = json.loads((exported["vit"].folder / "config.json").read_text())
    assert content["architecture"] == "vit_base_patch16_clip_224"
    assert set(content["pretrained_cfg"]) == {
        *("tag", "input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"),
        *("first_conv", "classifier", "num_classes", "custom_load"),
    }
    assert content["num_classes"] == content["pretrained_cfg"]["num_classes"] == 24
    assert sorted(path.name for path in exported["vit"].folder.iterdir()) == ["config.json", "model.safetensors"]


def test_the_snippet_loads_what_was_written(exported: dict[str, Exported]):
    one, image = exported["vit_wide"], small_probe().images[0]
    found: dict[str, Any] = {"image": image}
    exec(exporter("timm").loading(str(one.folder)), found)
    pixels = one.source.built.preprocess.evaluation_transform()(image)[None]
    expected = one.source.embed(pixels, None)["image"]
    assert torch.allclose(torch.nn.functional.normalize(found["image_features"], dim=-1), expected, atol=1e-5)


def test_a_user_is_told_that_images_are_not_turned(exported: dict[str, Exported]):
    assert any("EXIF" in note for note in exported["timm_encoder"].written.notes)
    assert not any("EXIF" in note for note in exported["vit"].written.notes)


def test_a_tower_of_another_name_is_refused(tmp_path: Path):
    built = build(ModelConfig(**MORE["timm_encoder"]))
    built.model.image.trunk.pretrained_cfg["architecture"] = "test_resnet"
    with pytest.raises(ModelError, match=r"test_resnet: timm does not build the tower that was trained"):
        exporter("timm").write(Source(built, "x", {}, ""), tmp_path, small_probe())
