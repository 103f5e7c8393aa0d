"""transformers' folder: loaded by transformers in a process of its own, the same model to the last bit."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from contrastive.errors import ModelError
from contrastive.export import parity
from contrastive.export.parity import Claim, verify
from contrastive.export.tokenizer_files import as_transformers, write_tokenizer
from contrastive.export.transformers_files import image_processor
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.models.forms import open_built
from contrastive.models.mapping import module_of
from tests.export import toys
from tests.export.toys import BYTES, FOLDER, MODELS, VIT, Exported, byte_tokenizer, cfg, exporter, small_probe, source

BYTE_TOKENS = {"hf_tokenizer_name": f"{FOLDER}/tokenizer", "vocab_size": BYTES, "context_length": 24}
# Beside the toys that every format has: what CLIPModel says in other words.
MORE: dict[str, dict[str, Any]] = {
    "odd_sizes": {
        "model_cfg": cfg(
            {
                **{**VIT, "image_size": 35, "mlp_ratio": 2.7, "final_ln_after_pool": True},
                **{"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}, "pos_embed_type": "sin_cos_2d"},
            },
            {"mlp_ratio": 3.3, "pool_type": "eos", "eos_id": 49407, "vocab_size": 49500},
        ),
        "preprocess": {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3]},
    },
    "own_tokenizer": {"model_cfg": cfg(VIT, BYTE_TOKENS)},
    "canonical": {"model_cfg": cfg(VIT, {**BYTE_TOKENS, "tokenizer_kwargs": {"clean": "canonicalize"}})},
    "lower_case": {"model_cfg": cfg(VIT, {**BYTE_TOKENS, "tokenizer_kwargs": {"clean": "lower"}}, custom_text=True)},
}
HELD = ["vit", "vit_quick_gelu", "vit_wide", "vit_short_text", "vit_custom_text", *MORE]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exported]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, model in MORE.items():
            patch.setitem(MODELS, name, model)
        probe = small_probe()
        patch.setattr(toys, "small_probe", lambda: probe)  # the same for each, drawn once
        yield toys.export_all(HELD, "transformers", tmp_path_factory.mktemp("transformers"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read exports in this process: what is looked at is the comparison, and a process takes seconds."""
    spec = importlib.util.spec_from_file_location("run", parity.READERS / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)

    def read(reader: str, exports: Sequence[tuple[Path, Path]]) -> None:
        run.main(str(parity.READERS / f"{reader}.py"), *(str(path) for pair in exports for path in pair))

    monkeypatch.setattr(parity, "_read", read)


@pytest.mark.parametrize("name", HELD)
def test_transformers_embeds_as_we_do_in_a_fresh_process(name: str, exported: dict[str, Exported]):
    found = exported[name].parity
    assert max(one.max_distance for one in found.towers.values()) <= 1e-6
    assert found.pixels == 0
    assert found.ids_equal == 1
    assert {"contrastive", "open_clip", "timm"} & set(found.read_with) == set()


@pytest.mark.parametrize("name", HELD)
def test_the_weights_come_back_bit_by_bit(name: str, exported: dict[str, Exported]):
    ours = exported[name].source.built
    back, _ = open_built(f"hf:{exported[name].folder}")
    before = {key.removeprefix("text."): value for key, value in module_of(ours).state_dict().items()}
    after = module_of(back).state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert back.preprocess == ours.preprocess
    texts = ["a photo of a cat", "two dogs", "a b " * 100]
    assert torch.equal(back.tokenizer(texts), ours.tokenizer(texts))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_layer_scale", r"model.model_cfg.vision_cfg.ls_init_value: 0.1: CLIPModel has no layer scale"),
        ("vit_attentional_pool", r"vision_cfg.attentional_pool: True: CLIPModel has no attentional pooling"),
        ("vit_bias", r"model.init_logit_bias: -10: CLIPModel has no bias on its logits"),
        ("resnet", r"vision_cfg.layers: \[1, 1, 1, 1\]: CLIPModel has no ResNet"),
    ],
)
def test_what_transformers_cannot_hold_is_refused_by_key_with_the_formats_that_can(
    name: str, said: str, tmp_path: Path
):
    with pytest.raises(ModelError, match=rf"{said}; export to open_clip, onnx, torch_export or safetensors"):
        exporter("transformers").check(source(name, tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preprocess": {"resize_mode": "longest"}}, r"model.preprocess.resize_mode: 'longest'"),
        (
            {"model_cfg": cfg(VIT, {**BYTE_TOKENS, "tokenizer_kwargs": {"strip_sep_token": True}})},
            r"text_cfg.tokenizer_kwargs.strip_sep_token: True",
        ),
    ],
)
def test_inputs_that_transformers_cannot_prepare_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(MODELS, "changed", {**MODELS["vit"], **change})
    with pytest.raises(ModelError, match=rf"{said}.*; export to open_clip"):
        exporter("transformers").check(source("changed", tmp_path))


def _config(part: str, key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config[part][key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _swapped(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = [f"vision_model.encoder.layers.1.self_attn.{part}_proj.bias" for part in "qv"]
    weights[names[0]], weights[names[1]] = weights[names[1]], weights[names[0]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_swapped, r"the image tower differs.*layers\.1\.self_attn \(ours: visual\.transformer\.resblocks\.1\.attn\)"),
        (
            _config("vision_config", "hidden_act", "quick_gelu"),
            r"the image tower differs.*layers\.0\.mlp\.activation_fn \(ours: visual.*0\.mlp\.gelu\)",
        ),
        (
            _config("text_config", "layer_norm_eps", 1e-2),
            r"the text tower differs.*text_model\.encoder\.layers\.0\.layer_norm1",
        ),
        (
            _config("text_config", "eos_token_id", 5),
            r"the text tower differs.*every layer up to .*final_layer_norm",
        ),
        (_config("text_config", "num_attention_heads", 4), r"the text tower differs.*layers\.0\.self_attn"),
    ],
    ids=["swapped", "activation", "eps", "end", "heads"],
)
def test_a_wrong_export_is_refused_and_the_layer_named(
    change: Callable[[Path], None], said: str, exported: dict[str, Exported], tmp_path: Path
):
    one, folder = exported["own_tokenizer"], tmp_path / "wrong"
    shutil.copytree(one.folder, folder)
    change(folder)
    with pytest.raises(ModelError, match=said):
        verify(Claim(one.source, exporter("transformers"), one.written, folder, small_probe()))


@pytest.mark.usefixtures("here")
def test_a_tensor_that_is_not_there_is_not_made_up(exported: dict[str, Exported], tmp_path: Path):
    one, folder = exported["own_tokenizer"], tmp_path / "wrong"
    shutil.copytree(one.folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing_keys: visual_projection.weight"):
        verify(Claim(one.source, exporter("transformers"), one.written, folder, small_probe()))
    with pytest.raises(ModelError, match=r"its weights do not fit its config.json.*visual_projection.weight"):
        open_built(f"hf:{folder}")


def test_the_default_backend_is_not_exact_and_the_export_says_so(exported: dict[str, Exported]):
    assert 0 < exported["vit"].parity.extra["pixels_torchvision"] < 0.05
    assert any('backend="pil"' in note for note in exported["vit"].written.notes)


@pytest.mark.parametrize("left_over", range(12))
def test_the_middle_is_cut_out_like_ours_but_for_every_fourth_rest(left_over: int):
    preprocess = Preprocess(32)
    draw = np.random.default_rng(0).integers(0, 255, (32, 32 + left_over, 3), np.uint8)
    ours = preprocess.evaluation_transform()(Image.fromarray(draw)).numpy()
    theirs = transformers.CLIPImageProcessorPil(**image_processor(preprocess).to_dict())
    shifted = np.roll(draw, -1, axis=1) if left_over % 4 == 3 else draw
    found = theirs(images=Image.fromarray(shifted), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(ours, found)


@pytest.mark.parametrize("name", ["vit_quick_gelu", "canonical"])
def test_the_lines_of_the_card_load_it(name: str, exported: dict[str, Exported]):
    one = exported[name]
    found: dict[str, Any] = {"image": Image.new("RGB", (50, 40), "red")}
    exec(exporter("transformers").loading(str(one.folder)), found)
    built = one.source.built
    pixels = built.preprocess.evaluation_transform()(found["image"])[None]
    ours = one.source.embed(pixels, built.tokenizer(["a photo of a cat"]))
    for tower in ("image", "text"):
        theirs = torch.nn.functional.normalize(found[f"{tower}_features"].detach(), dim=-1)
        torch.testing.assert_close(theirs, ours[tower], rtol=0, atol=1e-6)


def test_a_tokenizer_keeps_its_class_where_it_cleans_captions_itself(tmp_path: Path):
    tidy = transformers.BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    tidy.save_pretrained(tmp_path)
    theirs = as_transformers(Tokenizer(TokenizerSpec(str(tmp_path), 8)))
    assert type(theirs) is type(tidy)
    assert theirs.model_max_length == 8


def test_the_files_do_not_depend_on_what_was_tokenised_before(tmp_path: Path):
    byte_tokenizer(tmp_path / "own")
    tokenizer = Tokenizer(TokenizerSpec(str(tmp_path / "own"), 8))
    write_tokenizer(tokenizer, tmp_path / "before")
    tokenizer(["a photo of a cat"])
    write_tokenizer(tokenizer, tmp_path / "after")
    for file in sorted((tmp_path / "before").iterdir()):
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()


def test_the_tokenizer_cuts_and_pads_without_being_told_how_far(exported: dict[str, Exported]):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported["vit_short_text"].folder)
    ids = tokenizer(["word " * 50, "a"], padding=True, truncation=True)["input_ids"]
    assert [len(row) for row in ids] == [20, 20]
    assert ids[0][-1] == 49407
