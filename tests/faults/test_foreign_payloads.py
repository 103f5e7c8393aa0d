"""A payload in any file of a model of other libraries never runs: it is refused by name, or never read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from contrastive.errors import ConfigError
from contrastive.models.build import build
from contrastive.models.forms import open_built, open_model
from contrastive.settings import ModelConfig
from tests.faults import planters
from tests.faults.planters import PICKLES, copied, edited, files_of, plant, plant_beside, refused, with_code
from tests.faults.planters import mark as mark  # (a fixture)
from tests.modalities.test_text import word_level
from tests.models.test_build import MODEL_CFG, PREPROCESS
from tests.models.test_huggingface import write as write_transformers

IMAGE = {"name": "cnn", "widths": [4], "depths": [1]}
TEXT = {"name": "lstm", "width": 8}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real folders of an open_clip model and of one of transformers."""
    home = tmp_path_factory.mktemp("originals")
    return {
        "open_clip": _open_clip(home / "open_clip"),
        "transformers": write_transformers(home / "transformers"),
    }


def _open_clip(folder: Path) -> Path:
    """Write an open_clip folder with a tokenizer of transformers, as its hub models have it."""
    torch.manual_seed(1)
    described = {**MODEL_CFG, "text_cfg": {**MODEL_CFG["text_cfg"], "hf_tokenizer_name": "words"}}
    word_level(folder)
    content = {"model_cfg": described, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(open_clip.CLIP(**MODEL_CFG).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _same(found: str, expected: str) -> None:
    assert found == expected, "another model was loaded"


def _with_modules(folder: Path, mark: Path, **named: Any) -> None:
    for name in ("configuration_x", "modeling_x", "image_processing_x"):
        plant(folder / f"{name}.py", planters.code(mark))
    code = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
    edited(folder / "config.json", lambda content: content.update(auto_map=code, **named))


# Models of open_clip


def test_a_payload_in_any_file_of_an_open_clip_folder_is_refused_or_never_read(
    originals: dict[str, Path], tmp_path: Path, mark: Path
):
    folder, right = copied(originals["open_clip"], tmp_path), open_model(str(originals["open_clip"])).identity
    read = set()
    for name in files_of(folder):
        before = (folder / name).read_bytes()
        for payload in PICKLES.values():
            plant(folder / name, payload(mark))
            if refused(lambda: _same(open_model(f"local-dir:{folder}").identity, right), folder):
                read.add(name)
            assert not mark.exists(), f"{name} was run"
        (folder / name).write_bytes(before)
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"} <= read


def test_payloads_beside_an_open_clip_model_change_nothing(originals: dict[str, Path], tmp_path: Path, mark: Path):
    folder = copied(originals["open_clip"], tmp_path)
    plant_beside(folder, mark)
    _same(open_model(str(folder)).identity, open_model(str(originals["open_clip"])).identity)


@pytest.mark.parametrize("payload", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "pytorch_model.pth", "other.bin"])
def test_an_open_clip_model_whose_only_weights_are_a_payload_is_refused(
    originals: dict[str, Path], tmp_path: Path, mark: Path, name: str, payload: Callable[[Path], bytes]
):
    folder = copied(originals["open_clip"], tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    plant(folder / name, payload(mark))
    assert refused(lambda: open_model(f"local-dir:{folder}"), folder)


@pytest.mark.parametrize("payload", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy", ".pkl", ".jit"])
def test_a_file_of_weights_that_is_a_payload_is_refused(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, payload: Callable[[Path], bytes]
):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL_CFG)
    plant(tmp_path / f"weights{suffix}", payload(mark))
    assert refused(lambda: open_model(f"tiny@{tmp_path / 'weights'}{suffix}"), f"weights{suffix}")


def test_an_open_clip_folder_cannot_ask_for_code(
    originals: dict[str, Path], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = copied(originals["open_clip"], tmp_path)
    with_code(folder, mark)
    assert refused(lambda: open_model(str(folder)), folder)
    trusting = {"tokenizer_kwargs": {"trust_remote_code": True}}
    edited(folder / "open_clip_config.json", lambda content: content["model_cfg"]["text_cfg"].update(trusting))
    assert refused(lambda: open_model(str(folder)), folder)


@pytest.mark.parametrize("option", [{"weights_only": False}, {"jit": True}, {"pretrained_hf": "x"}])
def test_an_open_clip_description_cannot_set_options_of_the_loader(
    originals: dict[str, Path], tmp_path: Path, mark: Path, option: dict[str, Any]
):
    folder = copied(originals["open_clip"], tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    plant(folder / "open_clip_pytorch_model.bin", planters.saved_by_torch(mark))
    edited(folder / "open_clip_config.json", lambda content: content["model_cfg"].update(option))
    assert refused(lambda: open_model(str(folder)), folder)


def test_a_text_tower_of_transformers_in_an_open_clip_model_brings_no_code(
    originals: dict[str, Path], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    tower, folder = copied(originals["transformers"], tmp_path), copied(originals["open_clip"], tmp_path)
    _with_modules(tower, mark, model_type="unheard_of")
    text = {"hf_model_name": str(tower), "hf_tokenizer_name": str(folder), "hf_pooler_type": "mean_pooler"}
    edited(folder / "open_clip_config.json", lambda content: content["model_cfg"].update(text_cfg=text))
    assert refused(lambda: open_model(str(folder)), folder)
    with pytest.raises(ConfigError, match="brings code of its own, which is never run"):
        build(ModelConfig(model_cfg={**MODEL_CFG, "text_cfg": text}))


# Models of transformers


@pytest.mark.parametrize("load", [open_model, open_built])
def test_a_payload_in_any_file_of_a_transformers_folder_is_refused_or_never_read(
    originals: dict[str, Path], tmp_path: Path, mark: Path, load: Callable[[str], Any]
):
    folder, read = copied(originals["transformers"], tmp_path), set()
    for name in files_of(folder):
        before = (folder / name).read_bytes()
        for payload in (planters.pickled, planters.saved_by_torch, planters.tagged):
            plant(folder / name, payload(mark))
            if refused(lambda: load(f"hf:{folder}"), folder):
                read.add(name)
            assert not mark.exists(), f"{name} was run"
        (folder / name).write_bytes(before)
    assert {"config.json", "model.safetensors"} <= read


def test_payloads_beside_a_transformers_model_change_nothing(originals: dict[str, Path], tmp_path: Path, mark: Path):
    folder = copied(originals["transformers"], tmp_path)
    plant_beside(folder, mark)
    _same(open_model(f"hf:{folder}").identity, open_model(f"hf:{originals['transformers']}").identity)


def test_code_of_a_model_that_transformers_knows_itself_is_passed_over(
    originals: dict[str, Path], tmp_path: Path, mark: Path
):
    folder = copied(originals["transformers"], tmp_path)
    _with_modules(folder, mark)
    with_code(folder, mark)
    found, right = (open_model(f"hf:{one}") for one in (folder, originals["transformers"]))
    assert torch.equal(found.tokenizer(["a cat"]), right.tokenizer(["a cat"]))
    state = right.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())


@pytest.mark.parametrize("load", [open_model, open_built])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.pt", "flax_model.msgpack"])
def test_a_transformers_folder_without_safetensors_is_refused(
    originals: dict[str, Path], tmp_path: Path, mark: Path, name: str, load: Callable[[str], Any]
):
    folder = copied(originals["transformers"], tmp_path)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    plant(folder / name, planters.saved_by_torch(mark))
    assert refused(lambda: load(f"hf:{folder}"), folder)


ASKING: dict[str, tuple[str, dict[str, Any]]] = {
    "config of its own": ("config.json", {"model_type": "unheard_of", "auto_map": {"AutoConfig": "modeling_x.X"}}),
    "kernels of the hub": ("config.json", {"_attn_implementation": "some/kernel"}),
    "quantised weights": (
        "config.json",
        {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": "eval"}}}},
    ),
    "adapter": ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "some/model"}),
    "image processor": (
        "preprocessor_config.json",
        {"image_processor_type": "X", "auto_map": {"AutoImageProcessor": "modeling_x.X"}},
    ),
}


@pytest.mark.parametrize("load", [open_model, open_built])
@pytest.mark.parametrize("name", ASKING)
def test_a_transformers_folder_that_asks_for_code_or_other_weights_is_refused(
    originals: dict[str, Path], tmp_path: Path, mark: Path, name: str, load: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = copied(originals["transformers"], tmp_path)
    plant(folder / "modeling_x.py", planters.code(mark))
    file, content = ASKING[name]
    edited(folder / file, lambda held: held.update(content))
    assert refused(lambda: load(f"hf:{folder}"), folder)


# Towers


def test_a_tower_of_transformers_with_pickled_weights_is_refused(
    originals: dict[str, Path], tmp_path: Path, mark: Path
):
    folder = copied(originals["transformers"], tmp_path)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin", planters.saved_by_torch(mark))
    text = {"name": "huggingface", "model": str(folder)}
    words = {"name": str(originals["transformers"]), "context_length": 6}
    config = ModelConfig(image=IMAGE, text=text, tokenizer=words, embed_dim=12, image_size=32)
    assert refused(lambda: build(config), folder)


def test_a_tower_of_timm_whose_weights_are_a_payload_is_refused(tmp_path: Path, mark: Path):
    folder = tmp_path / "tower"
    timm.models.save_for_hf(timm.create_model("test_vit"), folder, safe_serialization=True)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin", planters.saved_by_torch(mark))
    image = {"name": "timm", "model": f"local-dir:{folder}", "pretrained": True}
    config = ModelConfig(image=image, text=TEXT, embed_dim=12, image_size=160)
    assert refused(lambda: build(config), folder)
