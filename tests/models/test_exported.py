"""An export that computes by itself is opened for evaluation as it is: by its files, each of which is checked."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from contrastive.errors import ModelError
from contrastive.export.folder import seal
from contrastive.modalities.image import Preprocess
from contrastive.models import exported
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.models.forms import open_built, open_model
from tests.modalities.test_text import word_level

PREPROCESS = Preprocess(8, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch):
    """Read the format `toy` by a module that is there for the test."""
    module = ModuleType("toy_reader")
    module.load = lambda folder: ContrastiveModel()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_reader", module)
    monkeypatch.setitem(exported.LOADERS, "toy", "toy_reader:load")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    word_level(place)
    tokenizer = {"name": ".", "context_length": 4, "options": {}}
    said = {"preprocess": PREPROCESS.to_dict(), "tokenizer": tokenizer, "embed_dim": 3}
    (place / "inputs.json").write_text(json.dumps(said))
    (place / "weights").write_bytes(b"1234")
    (place / "README.md").write_text("A model.")
    seal(place, {"format": "toy"})
    return place


def test_a_folder_is_opened_with_its_own_pixels_and_ids(folder: Path):
    loaded = open_model(str(folder))
    image = Image.new("RGB", (20, 10), (10, 200, 30))
    assert torch.equal(loaded.transform(image), PREPROCESS.evaluation_transform()(image))
    assert loaded.tokenizer(["a cat"]).tolist() == [[2, 3, 0, 0]]
    assert not loaded.model.training
    assert loaded.info["format"] == "toy"


def test_the_identity_is_that_of_the_files_and_not_of_the_card_or_the_place(folder: Path):
    before = open_model(str(folder)).identity
    (folder / "README.md").write_text("Another card.")
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    assert open_model(str(elsewhere)).identity == before
    (elsewhere / "weights").write_bytes(b"1235")
    seal(elsewhere, {"format": "toy"})
    assert open_model(str(elsewhere)).identity != before


def test_clips_own_tokenizer_needs_no_files(folder: Path):
    said = json.loads((folder / "inputs.json").read_text())
    said["tokenizer"] = {"name": None, "context_length": 5, "options": {}}
    (folder / "inputs.json").write_text(json.dumps(said))
    seal(folder, {"format": "toy"})
    assert open_model(str(folder)).tokenizer(["a cat"]).shape == (1, 5)


@pytest.mark.parametrize("name", ["weights", "inputs.json", "tokenizer.json"])
def test_a_damaged_file_is_named(name: str, folder: Path):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=rf"out/{name}: is damaged or was changed"):
        open_model(str(folder))


def test_a_missing_file_is_named(folder: Path):
    (folder / "weights").unlink()
    with pytest.raises(ModelError, match="out/weights: is missing"):
        open_model(str(folder))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "export.json: cannot be read"),
        ("[]", "export.json: is no JSON object"),
        ('{"format": "toy"}', "export.json: does not list inputs.json"),
        ('{"format": "toy", "files": []}', "export.json: does not list inputs.json"),
        ('{"format": "toy", "files": {"inputs.json": 1}}', "export.json: does not list inputs.json"),
    ],
)
def test_a_record_that_says_nothing_is_named(record: str, said: str, folder: Path):
    (folder / "export.json").write_text(record)
    with pytest.raises(ModelError, match=said):
        open_model(str(folder))


@pytest.mark.parametrize(
    "said", [{}, {"preprocess": {"size": 8}, "tokenizer": {}}, {"preprocess": [], "tokenizer": []}]
)
def test_inputs_that_say_nothing_usable_are_named(said: dict[str, object], folder: Path):
    (folder / "inputs.json").write_text(json.dumps(said))
    seal(folder, {"format": "toy"})
    with pytest.raises(ModelError, match=r"inputs\.json: says nothing usable of the inputs"):
        open_model(str(folder))


def test_it_cannot_be_trained_or_exported_again(folder: Path):
    with pytest.raises(ModelError, match="can only be evaluated; give the model that it was made of"):
        open_built(str(folder))


def test_it_has_no_average_of_its_weights(folder: Path):
    with pytest.raises(ModelError, match="only a run of ours has a moving average"):
        open_model(str(folder), weights="ema")


def test_exports_of_other_formats_are_left_to_their_libraries(folder: Path):
    seal(folder, {"format": "open_clip"})
    assert not exported.is_exported(str(folder))
    assert not exported.is_exported(str(folder / "none"))
