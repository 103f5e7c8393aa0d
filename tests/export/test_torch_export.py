"""torch.export: programs that torch alone runs, with nothing pickled inside."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from contrastive.errors import ModelError
from contrastive.export import torch_export
from contrastive.export.exporter import Tower
from contrastive.export.parity import READERS, Claim, verify
from contrastive.export.probe import Probe
from contrastive.export.torch_export import TorchExport
from tests.export.toys import MODELS, Exported, export_all, small_probe, source

TOWERS = ("image", "text")
QUICK = ("vit", "own_towers")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return export_all(QUICK, "torch_export", tmp_path_factory.mktemp("torch_export"))


def check_parity(found: Exported) -> None:
    assert max(one.max_distance for one in found.parity.towers.values()) <= 1e-5
    assert not {"contrastive", "open_clip", "timm", "transformers"} & set(found.parity.read_with)


@pytest.mark.parametrize("name", QUICK)
def test_a_program_embeds_one_input_and_many_as_the_model_does(name: str, exported: dict[str, Exported]):
    check_parity(exported[name])


@pytest.mark.slow
def test_every_other_model_is_held_too(tmp_path: Path):
    for found in export_all([name for name in MODELS if name not in QUICK], "torch_export", tmp_path).values():
        check_parity(found)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", QUICK)
def test_every_layer_that_is_named_gives_our_tensor(name: str, tower: Tower, exported: dict[str, Exported]):
    found = exported[name]
    reader, built, pairs = read(found.folder), found.source.built, found.written.layers[tower]
    size = built.preprocess.size
    given = torch.randn(3, 3, size, size) if tower == "image" else built.tokenizer(["a cat", "two dogs " * 80, "x"])
    theirs: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}
    module = built.model if found.source.inner is None else found.source.inner
    for name_here, name_there in pairs:
        module.get_submodule(name_here).register_forward_hook(keep(ours, name_here))
        reader.module(name_there).register_forward_hook(keep(theirs, name_here))
    found.source.embed(*((given, None) if tower == "image" else (None, given)))
    getattr(reader, f"embed_{tower}")(given.numpy())
    assert list(theirs) == list(ours) == [name_here for name_here, _ in pairs]
    for name_here, value in ours.items():
        torch.testing.assert_close(theirs[name_here], value, atol=1e-5, rtol=1e-4)


def keep(kept: dict[str, Tensor], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(_module: Any, _given: Any, output: Any) -> None:
        kept[name] = output[0] if isinstance(output, (tuple, list)) else output

    return hook


def read(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("torch_export_reader", READERS / "torch_export.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reader(str(folder))


def test_an_archive_is_json_and_raw_tensors(exported: dict[str, Exported]):
    for tower in TOWERS:
        with zipfile.ZipFile(exported["vit"].folder / f"{tower}.pt2") as archive:
            content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        assert content.pop("data/sample_inputs/model.pt") == b""
        for part in ("weights", "constants"):
            listed = json.loads(content[f"data/{part}/model_{part}_config.json"])["config"]
            assert not any(entry["use_pickle"] for entry in listed.values())
        assert not [name for name in content if name.startswith("data/aotinductor") or name.endswith(".pt")]


def test_an_archive_holds_one_tower_and_no_path_of_this_machine(exported: dict[str, Exported]):
    found = exported["vit"]
    weights = {tower: torch.export.load(found.folder / f"{tower}.pt2").state_dict for tower in TOWERS}
    assert all(name.startswith("model.inner.visual.") for name in weights["image"])
    assert not [name for name in weights["text"] if ".visual." in name]
    assert sum(map(len, weights.values())) == len(found.source.weights) - 1  # all but the scale of the logits
    with zipfile.ZipFile(found.folder / "image.pt2") as archive:
        graph = next(archive.read(name) for name in archive.namelist() if name.endswith("models/model.json"))
    assert b"site-packages" not in graph
    assert str(Path(torch_export.__file__).parent).encode() not in graph


@pytest.mark.slow
def test_a_changed_weight_is_refused_and_its_layer_named(tmp_path: Path):
    found, exporter, probe = source("vit", tmp_path), TorchExport(), small_probe()
    written = exporter.write(found, tmp_path, probe)
    program = torch.export.load(tmp_path / "text.pt2")
    with torch.no_grad():
        program.state_dict["model.inner.transformer.resblocks.1.mlp.c_fc.weight"][0] += 1
    torch.export.save(program, tmp_path / "text.pt2")
    with pytest.raises(ModelError, match=r"the text tower differs.*resblocks\.1\.mlp\.c_fc"):
        verify(Claim(found, exporter, written, tmp_path, probe))


def test_the_loading_lines_give_our_features(exported: dict[str, Exported]):
    found, image = exported["vit"], Image.new("RGB", (90, 60), (200, 30, 90))
    exporter = TorchExport()
    exporter.check(found.source)
    values: dict[str, Tensor] = {"image": image}
    exec(exporter.loading(str(found.folder)), values)
    built = found.source.built
    pixels = built.preprocess.evaluation_transform()(image)[None]
    ours = found.source.embed(pixels, built.tokenizer(["a photo of a cat"]))
    for tower in TOWERS:
        torch.testing.assert_close(values[f"{tower}_features"], ours[tower], atol=1e-6, rtol=0)


def test_a_tower_that_cannot_be_traced_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = source("vit", tmp_path)

    def looks(image: Tensor) -> Tensor:
        return image if image.sum() > 0 else -image

    monkeypatch.setattr(found.built.model, "encode_image", looks)
    with pytest.raises(ModelError, match=r"the image tower: torch\.export cannot trace it: "):
        TorchExport().write(found, tmp_path, Probe((), ()))
