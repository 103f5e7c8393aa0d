"""int8 by torchao: read by transformers, near the model it was made of, and smaller."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contrastive.errors import ModelError
from contrastive.export.folder import seal
from contrastive.export.parity import Claim, verify_all
from contrastive.export.source import open_source
from contrastive.export.torchao_int8 import TorchaoInt8
from contrastive.models.forms import open_model
from tests.export.toys import MODELS, Exported, export_all, small_probe, source

pytest.importorskip("torchao")
TRAINED = Path(__file__).parents[1] / "parity" / "model"
REFUSED = ("vit_layer_scale", "vit_attentional_pool", "vit_bias", "resnet", "timm_hf_text", "own_towers")
TOWERS = ("image", "text")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_all(["vit_quick_gelu"], "torchao_int8", tmp_path_factory.mktemp("torchao_int8"))["vit_quick_gelu"]


def check_parity(found: Exported) -> None:
    parity = found.parity
    assert 0.99 <= min(one.min_cosine for one in parity.towers.values()) < 1 - 1e-6
    assert {"torchao", "transformers"} <= set(parity.read_with)
    assert not {"contrastive", "open_clip"} & set(parity.read_with)


def test_transformers_embeds_nearly_as_we_do_in_a_fresh_process(exported: Exported):
    check_parity(exported)
    assert exported.parity.pixels == 0
    assert exported.parity.ids_equal == 1


@pytest.mark.slow
@pytest.mark.parametrize("reduce_range", [False, True])
def test_every_model_that_transformers_holds_is_near(reduce_range: bool, tmp_path: Path):
    held = [name for name in MODELS if name not in REFUSED]
    for found in export_all(held, "torchao_int8", tmp_path, reduce_range=reduce_range).values():
        check_parity(found)


@pytest.mark.slow
def test_a_trained_model_is_near(tmp_path: Path):
    found, one, probe = open_source(str(TRAINED)), TorchaoInt8(), small_probe()
    claim = Claim(found, one, one.write(found, tmp_path, probe), tmp_path, probe)
    (parity,) = verify_all([claim])
    assert not isinstance(parity, ModelError)
    assert min(tower.min_cosine for tower in parity.towers.values()) >= 0.999


@pytest.mark.slow
def test_a_layer_with_wrong_scales_is_refused(tmp_path: Path):
    found, one, probe = source("vit", tmp_path), TorchaoInt8(), small_probe()
    written, path = one.write(found, tmp_path, probe), tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as content:
        header = content.metadata()
    tensors = load_file(path)
    tensors["vision_model.encoder.layers.0.mlp.fc2._weight_scale"] *= 20
    save_file(tensors, path, metadata=header)
    (refused,) = verify_all([Claim(found, one, written, tmp_path, probe)])
    assert isinstance(refused, ModelError)
    assert str(refused).startswith("the image tower differs: the least cosine is 0.")


def test_linear_layers_are_int8_and_all_else_is_the_float_of_before(exported: Exported):
    ours = exported.source.weights
    tensors = load_file(exported.folder / "model.safetensors")
    for block in ("text_model.encoder.layers.0.mlp.fc1", "vision_model.encoder.layers.1.self_attn.q_proj"):
        assert tensors[f"{block}._weight_qdata"].dtype == torch.int8
        assert f"{block}.weight" not in tensors
    assert torch.equal(tensors["text_model.embeddings.token_embedding.weight"], ours["token_embedding.weight"])
    assert torch.equal(tensors["vision_model.embeddings.patch_embedding.weight"], ours["visual.conv1.weight"])
    rows, scale = tensors["visual_projection._weight_qdata"], tensors["visual_projection._weight_scale"]
    torch.testing.assert_close(rows * scale, ours["visual.proj"].T, atol=scale.max().item() / 2 + 1e-6, rtol=0)


def test_it_is_evaluated_as_it_is(exported: Exported, tmp_path: Path):
    loaded = open_model(str(sealed(exported, tmp_path)))
    image = Image.new("RGB", (50, 40), (9, 200, 90))
    built = exported.source.built
    given = {"image": loaded.transform(image)[None], "text": loaded.tokenizer(["a photo of a cat"])}
    assert torch.equal(given["image"][0], built.preprocess.evaluation_transform()(image))
    assert torch.equal(given["text"], built.tokenizer(["a photo of a cat"]))
    ours = exported.source.embed(given["image"], given["text"])
    with torch.inference_mode():
        theirs = {tower: getattr(loaded.model, f"encode_{tower}")(given[tower]) for tower in TOWERS}
    for tower in TOWERS:
        assert 0.99 <= torch.cosine_similarity(ours[tower], theirs[tower]).item() < 1
    torch.testing.assert_close(loaded.model.logit_scale.detach(), built.model.logit_scale.detach())


def test_the_loading_lines_give_our_features_nearly(exported: Exported):
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    values: dict[str, Any] = {"image": image}
    exec(TorchaoInt8().loading(str(exported.folder)), values)
    built = exported.source.built
    pixels = built.preprocess.evaluation_transform()(image)[None]
    ours = exported.source.embed(pixels, built.tokenizer(["a photo of a cat"]))
    assert all(torch.cosine_similarity(values[f"{tower}_features"], ours[tower]).item() >= 0.99 for tower in TOWERS)


def test_what_transformers_cannot_hold_is_refused_by_its_key(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model\.model_cfg\.vision_cfg\.ls_init_value: 0\.1: .*export to"):
        TorchaoInt8().check(source("vit_layer_scale", tmp_path))


def sealed(exported: Exported, folder: Path) -> Path:
    place = folder / "export"
    shutil.copytree(exported.folder, place)
    seal(place, {"format": "torchao_int8"})
    return place
