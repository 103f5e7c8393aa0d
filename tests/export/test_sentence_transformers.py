"""A folder of sentence-transformers: our embeddings from PIL images and texts, read in a process of its own."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from contrastive.errors import ModelError
from contrastive.export.parity import Claim, Parity, verify_all
from tests.export.toys import exporter, small_probe, source

pytest.importorskip("sentence_transformers")
WHOLE = ("vit", "siglip", "hf_text")
ROUTES = ("timm_hf_text", "dual_timm_hf")


def queries_for_values(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    stem = "text_model.encoder.layers.1.self_attn."
    for kind in ("weight", "bias"):
        query, value = f"{stem}q_proj.{kind}", f"{stem}v_proj.{kind}"
        tensors[query], tensors[value] = tensors[value], tensors[query]
    save_file(tensors, file, metadata={"format": "pt"})


def another_eps(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["layer_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))


def first_token(folder: Path) -> None:
    file = folder / "text_1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": "cls"}))


def default_pixels(folder: Path) -> None:
    file = folder / "sentence_bert_config.json"
    config = json.loads(file.read_text())
    del config["processor_kwargs"]
    file.write_text(json.dumps(config))


WRONG: dict[str, tuple[str, Callable[[Path], None]]] = {
    "queries_for_values": ("siglip", queries_for_values),
    "another_eps": ("siglip", another_eps),
    "first_token": ("dual_timm_hf", first_token),
}
Outcomes = dict[str, tuple[Claim, Parity | ModelError]]


def exported(place: Path, names: Mapping[str, tuple[str, Callable[[Path], None] | None]]) -> Outcomes:
    """Return exports of toys, some changed behind our back, all read in one process."""
    claims, one = {}, exporter("sentence_transformers")
    for name, (toy, spoil) in names.items():
        found, probe, folder = source(toy, place / "files" / name), small_probe(), place / name
        one.check(found)
        claims[name] = Claim(found, one, one.write(found, folder, probe), folder, probe)
        if spoil is not None:
            spoil(folder)
    return dict(zip(claims, zip(claims.values(), verify_all(list(claims.values())), strict=True), strict=True))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    names = {name: (name, None) for name in (*WHOLE, *ROUTES)}
    return exported(tmp_path_factory.mktemp("exports"), {**names, "default_pixels": ("hf_text", default_pixels)})


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return exported(tmp_path_factory.mktemp("wrong"), WRONG)


def parity(outcomes: Outcomes, name: str) -> Parity:
    outcome = outcomes[name][1]
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome


@pytest.mark.parametrize("name", [*WHOLE, *ROUTES])
def test_sentence_transformers_embeds_as_we_do_in_a_fresh_process(name: str, read: Outcomes):
    found = parity(read, name)
    assert max(one.max_distance for one in found.towers.values()) <= 1e-6
    assert found.pixels == 0
    assert found.ids_equal == 1
    assert found.extra == {"encode": 0.0}  # the library's own encode gives what the steps give
    assert not {"contrastive", "open_clip"} & set(found.read_with)


@pytest.mark.slow  # the layer that differs is looked for in a process more each
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("queries_for_values", r"the text tower differs.*text_model.encoder.layers.1.self_attn"),
        ("another_eps", r"the image tower differs.*vision_model.encoder.layers.0.layer_norm1"),
        ("first_token", r"the text tower differs"),
    ],
)
def test_what_computes_another_thing_is_refused(name: str, message: str, wrong: Outcomes):
    outcome = wrong[name][1]
    assert isinstance(outcome, ModelError)
    assert re.search(message, str(outcome)), outcome


def test_without_what_the_folder_says_the_pixels_are_others(read: Outcomes):
    assert 1e-3 < (parity(read, "default_pixels").pixels or 0) < 0.1
    config = json.loads((read["hf_text"][0].folder / "sentence_bert_config.json").read_text())
    assert config["processor_kwargs"] == {"backend": "pil"}


@pytest.mark.parametrize("name", [*WHOLE, *ROUTES])
def test_a_folder_has_no_readme_and_no_path_of_this_machine(name: str, read: Outcomes):
    folder = read[name][0].folder
    assert not (folder / "README.md").exists()
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["similarity_fn_name"] == "cosine"
    for path in folder.rglob("*.json"):
        assert "/tmp" not in path.read_text(encoding="utf-8"), path


def test_no_weights_are_pickled(read: Outcomes):
    for claim, _ in read.values():
        assert {path.suffix for path in claim.folder.rglob("*") if path.is_file()} <= {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"vision_cfg.layers: .*ResNet; export to open_clip, onnx"),
        ("vit_layer_scale", r"vision_cfg.ls_init_value: 0.1: .*; export to open_clip"),
        ("own_towers", r"model.image.name: 'cnn': .*; export to onnx"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_key(name: str, message: str, tmp_path: Path):
    with pytest.raises(ModelError, match=message):
        exporter("sentence_transformers").check(source(name, tmp_path))
