import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrastive.errors import ModelError
from contrastive.models.build import build
from contrastive.models.checkpoint import load, ready, save, write_tensors
from contrastive.models.forms import open_model
from contrastive.settings import ModelConfig
from tests.modalities.test_text import word_level
from tests.models.test_build import MODEL_CFG, local_dir  # noqa: F401  (a fixture)
from tests.models.test_huggingface import write as write_transformers

TEXTS = ["a cat", "two dogs"]
ODD = [(50, 37), (33, 65), (31, 32), (7, 90), (32, 32)]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch):
    """Make `tiny` a name that open_clip knows, with one published tag; `tiny-custom` has a text tower of its own."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL_CFG)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-custom", {**MODEL_CFG, "custom_text": True})
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "tiny", {"toy": {"mean": (0.5, 0.5, 0.5), "resize_mode": "squash"}}
    )


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def trained(**options: Any) -> open_clip.CLIP:
    torch.manual_seed(5)
    return open_clip.CLIP(**{**MODEL_CFG, **options}).eval()


def same(loaded: Any, theirs: Any) -> None:
    pixels, ids = loaded.transform(picture(50, 40))[None], loaded.tokenizer(TEXTS)
    with torch.no_grad():
        for ours, expected in (
            (loaded.model.encode_image(pixels), theirs.encode_image(pixels, normalize=True)),
            (loaded.model.encode_text(ids), theirs.encode_text(ids, normalize=True)),
            (loaded.model.logit_scale, theirs.logit_scale.reshape(1)),
        ):
            torch.testing.assert_close(ours, expected)
    assert not any(module.training for module in loaded.model.modules())


# Runs and checkpoints of ours


def test_a_run_gives_its_newest_checkpoint_raw_or_averaged_and_best_the_best(tmp_path: Path):
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    for step in (1, 2):
        folder = save(tmp_path / "checkpoints" / f"step-{step}", built, {"step": step})
        write_tensors(folder / "ema.safetensors", {k: v + 1 for k, v in built.model.state_dict().items()})
    (tmp_path / "checkpoints" / "best.json").write_text(json.dumps({"checkpoints": [{"checkpoint": "step-1"}]}))
    assert open_model(str(tmp_path)).info["step"] == 2
    assert open_model(str(tmp_path / "checkpoints" / "step-1")).info["step"] == 1
    assert open_model(str(tmp_path / "checkpoints" / "best")).info["step"] == 1
    raw, average = open_model(str(tmp_path)), open_model(str(tmp_path), weights="ema")
    assert torch.equal(average.model.logit_scale, raw.model.logit_scale + 1)
    assert raw.identity != average.identity
    assert raw.identity == load(tmp_path / "checkpoints" / "step-1").identity


def test_the_identity_stays_when_the_folder_moves_and_changes_with_anything_that_decides_an_embedding(tmp_path: Path):
    def saved(name: str, **options: Any) -> str:
        torch.manual_seed(0)
        config = ModelConfig(**{"model_cfg": MODEL_CFG, **options})
        return load(save(tmp_path / name, build(config), {"step": len(name)})).identity

    first = saved("one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").identity == first == saved("again")
    assert saved("pixels", preprocess={"mean": [0.5, 0.5, 0.5]}) != first
    assert saved("gelu", model_cfg={**MODEL_CFG, "quick_gelu": True}) != first
    assert saved("heads", model_cfg={**MODEL_CFG, "text_cfg": {**MODEL_CFG["text_cfg"], "heads": 4}}) != first


def test_the_identity_knows_what_a_tokenizer_does_and_not_where_it_lies(tmp_path: Path):
    def known(folder: str, word: str) -> str:
        file = word_level(tmp_path / folder) / "tokenizer.json"
        file.write_text(file.read_text().replace('"cat"', f'"{word}"'))
        torch.manual_seed(0)
        tokenizer = {"name": str(tmp_path / folder), "context_length": 6}
        image = {"name": "cnn", "widths": [4], "depths": [1]}
        text = {"name": "lstm", "width": 8}
        built = build(ModelConfig(image=image, text=text, tokenizer=tokenizer, embed_dim=12, image_size=32))
        return ready(built, {}, "cpu").identity

    assert known("a", "cat") == known("b", "cat") != known("c", "dog")


# open_clip


@pytest.mark.parametrize("scheme", ["local-dir:", ""])
def test_a_saved_open_clip_folder_is_open_clips_model(local_dir: Path, scheme: str):  # noqa: F811
    loaded = open_model(f"{scheme}{local_dir}")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{local_dir}")
    same(loaded, theirs.eval())
    assert torch.equal(loaded.transform(picture(50, 40)), transform(picture(50, 40)))
    assert loaded.info["form"] == f"local-dir:{local_dir}"


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", ODD)
def test_pixels_are_those_of_open_clips_validation(
    local_dir: Path,  # noqa: F811
    mode: str,
    interpolation: str,
    size: tuple[int, int],
):
    described = {"resize_mode": mode, "interpolation": interpolation, "fill_color": 7, "mean": [0.4, 0.5, 0.6]}
    (local_dir / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": described}))
    transform = open_clip.create_model_and_transforms(f"local-dir:{local_dir}")[2]
    assert torch.equal(open_model(str(local_dir)).transform(picture(*size)), transform(picture(*size)))


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.pt", lambda state: state),
        ("trainer.pt", lambda state: {"epoch": 3, "state_dict": prefixed(state), "optimizer": {"state": {}}}),
        ("compiled.bin", lambda state: {f"_orig_mod.{name}": value for name, value in state.items()}),
        ("half.pth", lambda state: {name: value.half() for name, value in state.items()}),
    ],
)
def test_an_architecture_with_a_file_has_its_weights(tmp_path: Path, name: str, content: Callable):
    theirs = trained()
    for value in theirs.parameters():
        value.data = value.data.half().float()
    torch.save(content(theirs.state_dict()), tmp_path / name)
    loaded = open_model(f"tiny@{tmp_path / name}")
    same(loaded, theirs)
    save_file(theirs.state_dict(), tmp_path / "same.safetensors")
    assert open_model(f"tiny@{tmp_path / 'same.safetensors'}").identity == loaded.identity


def test_a_file_of_the_time_before_zip_archives_is_read(tmp_path: Path):
    torch.save(trained().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(open_model(f"tiny@{tmp_path / 'old.pt'}"), trained())


def test_the_bias_of_a_sigmoid_loss_is_kept(tmp_path: Path):
    torch.save(trained(init_logit_bias=-3.0).state_dict(), tmp_path / "siglip.pt")
    loaded = open_model(f"tiny@{tmp_path / 'siglip.pt'}")
    same(loaded, trained())
    assert loaded.model.logit_bias.tolist() == [-3.0]


def test_weights_of_a_plain_clip_fit_the_same_model_with_a_text_tower_of_its_own(tmp_path: Path):
    torch.save(trained().state_dict(), tmp_path / "plain.pt")
    same(open_model(f"tiny-custom@{tmp_path / 'plain.pt'}"), trained())


def test_a_tag_brings_weights_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file(trained().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "weights.safetensors")
    )
    loaded = open_model("tiny@toy")
    same(loaded, trained())
    assert (loaded.info["preprocess"]["mean"], loaded.info["preprocess"]["resize_mode"]) == ([0.5] * 3, "squash")


# transformers


@pytest.mark.parametrize("scheme", ["hf:", ""])
def test_a_folder_of_transformers_is_opened(tmp_path: Path, scheme: str):
    write_transformers(tmp_path / "model")
    loaded = open_model(f"{scheme}{tmp_path / 'model'}")
    assert not loaded.model.training
    assert loaded.info["form"] == f"hf:{tmp_path / 'model'}"
    assert loaded.info["preprocess"]["crop_size"] == {"height": 32, "width": 32}
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    assert open_model(str(tmp_path / "elsewhere")).identity == loaded.identity
    weights = load_file(tmp_path / "elsewhere" / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, tmp_path / "elsewhere" / "model.safetensors", metadata={"format": "pt"})
    assert open_model(str(tmp_path / "elsewhere")).identity != loaded.identity


def test_a_folder_that_both_libraries_read_is_open_clips(local_dir: Path):  # noqa: F811
    write_transformers(local_dir)
    assert open_model(str(local_dir)).info["form"].startswith("local-dir:")
    assert open_model(f"hf:{local_dir}").info["form"].startswith("hf:")


# What is refused


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("RN50", "RN50: names an architecture without weights, which would be random; write RN50@TAG or RN50@FILE"),
        ("ViT-B-33", "there is no such folder, nor a model of that name; did you mean ViT-B-32?"),
        (
            "runs/zzz",
            "there is no such folder, nor a model of that name; give a run or checkpoint folder of ours, RUN/",
        ),
        ("ViT-B-33@openai", "ViT-B-33@openai: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32?"),
        ("RN50@opanai", "RN50 has no tag 'opanai', nor is it a file; did you mean openai?"),
        ("RN50@/nowhere/a.pt", "there is no file /nowhere/a.pt"),
        ("RN50@a.safetensors", "there is no file a.safetensors"),
        ("local-dir:/nowhere", "/nowhere holds no open_clip_config.json; give the folder of a saved open_clip model"),
        ("hf:/nowhere", "hf:/nowhere: there is no folder /nowhere"),
    ],
)
def test_what_names_no_model_is_refused_in_one_line(form: str, message: str):
    with pytest.raises(ModelError) as caught:
        open_model(form)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_of_the_forms_names_them(tmp_path: Path):
    with pytest.raises(ModelError, match=r"is no model: .* config.json; give a run or .*, hf:FOLDER or hf:ORG/NAME"):
        open_model(str(tmp_path))


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="holds no checkpoint; give a run directory"):
        open_model(str(tmp_path))


def test_a_file_needs_its_architecture(tmp_path: Path):
    torch.save({}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"does not say of which architecture it is; write ARCH@.*a\.pt"):
        open_model(str(tmp_path / "a.pt"))


def test_only_our_runs_have_a_moving_average(local_dir: Path):  # noqa: F811
    with pytest.raises(ModelError, match="only a run of ours has a moving average"):
        open_model(str(local_dir), weights="ema")


def larger(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "positional_embedding": torch.zeros(77, 32)}


def shallower(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "ln_final" not in name}


def deeper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "transformer.resblocks.1.ln_1.weight": torch.zeros(32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (larger, r"positional_embedding is \[77, 32\], and \[12, 32\] in tiny"),
        (shallower, "it has no ln_final.weight"),
        (deeper, "it has transformer.resblocks.1.ln_1.weight, which tiny has not"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_told_by_its_first_difference(
    tmp_path: Path, change: Callable, message: str
):
    torch.save(change(trained().state_dict()), tmp_path / "a.pt")
    with pytest.raises(ModelError, match=f"a.pt: is of another architecture than tiny: {message}"):
        open_model(f"tiny@{tmp_path / 'a.pt'}")


def test_a_saved_folder_whose_weights_do_not_fit_says_which(local_dir: Path):  # noqa: F811
    weights = load_file(local_dir / "open_clip_model.safetensors")
    del weights["ln_final.weight"]
    save_file(weights, local_dir / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"the weights do not fit: .*ln_final.weight"):
        open_model(str(local_dir))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"holds more than weights, or is damaged; save its tensors as .safetensors"):
        open_model("tiny@a.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"", "cannot be read: "),
        ("a.safetensors", b"12345678{", "cannot be read: "),
        ("a.npz", b"", "weights are .pt, .pth, .bin, .ckpt, .safetensors"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(f"tiny@{tmp_path / name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {"state_dict": {}}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no weights"):
        open_model(f"tiny@{tmp_path / 'a.pt'}")


@pytest.mark.parametrize(
    ("form", "remedy"),
    [
        ("hf-hub:no/such-model", "give its folder as local-dir:FOLDER"),
        ("hf:no/such-model", "give its folder as hf:FOLDER"),
    ],
)
def test_where_the_hub_has_or_gives_no_such_model_the_way_around_it_is_said(form: str, remedy: str):
    with pytest.raises(ModelError) as caught:
        open_model(form)
    assert str(caught.value).startswith(f"{form}: ")
    assert str(caught.value).endswith(f"download the model elsewhere and {remedy}")
    assert "\n" not in str(caught.value)


def test_a_tag_whose_weights_do_not_come_names_the_way_around_it(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    with pytest.raises(ModelError, match=r"tiny@toy: .*no route to host.* elsewhere and give tiny@FILE"):
        open_model("tiny@toy")


def test_opening_a_model_leaves_random_numbers_alone(local_dir: Path):  # noqa: F811
    before = torch.get_rng_state()
    open_model(str(local_dir))
    assert torch.equal(torch.get_rng_state(), before)
