import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import open_clip
import pytest
import torch

from contrastive.errors import ConfigError, ModelError
from contrastive.export import parity
from contrastive.export.probe import Probe, built_in_probe
from contrastive.models.build import build
from contrastive.models.checkpoint import load, save, write_tensors
from contrastive.models.forms import open_model
from contrastive.runs import imports
from contrastive.runs.imports import OurCheckpoint, import_model
from contrastive.settings import ModelConfig
from tests.export.toys import source
from tests.models.test_build import MODEL_CFG, local_dir  # noqa: F401  (a fixture)


def few() -> Probe:
    whole = built_in_probe()
    return Probe(whole.images[:2], whole.texts[:4])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    probe = few()
    monkeypatch.setattr(imports, "built_in_probe", lambda: probe)


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read what was written without a fresh process, which takes seconds to start."""

    def read(_reader: str, exports: list[tuple[Path, Path]]) -> None:
        for folder, place in exports:
            import_module("contrastive.export.readers.run").main(
                str(parity.READERS / "contrastive.py"), str(folder), str(place)
            )

    monkeypatch.setattr(parity, "_read", read)


def test_a_model_of_open_clip_becomes_a_checkpoint_that_a_fresh_process_reads_as_the_same(
    local_dir: Path,  # noqa: F811
    tmp_path: Path,
):
    imported = import_model(str(local_dir), tmp_path / "ours")
    loaded, whole = load(tmp_path / "ours"), open_model(str(local_dir))
    assert loaded.identity == whole.identity == imported.source.identity
    assert loaded.info["imported"] == {"form": str(local_dir), "identity": whole.identity}
    assert imported.parity.towers["text"].max_distance <= 1e-6
    assert imported.parity.pixels == 0
    assert imported.parity.ids_equal == imported.parity.ids_equal_mended == 1
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["checkpoint.json", "model.safetensors"]
    said = "\n".join(imported.lines())
    assert "open_clip, image ViT of 1 layers, width 32, patch 8, text transformer of 1 layers, width 32" in said
    assert "parameters: 0.0 M image, 1.6 M text" in said
    assert "image size: 32, context length: 12, shared space: 16" in said
    assert "logit scale: 14.29 (temperature 0.07)\n" in said
    assert re.search(r"read again in a fresh process: embeddings \d\.\de-?\d+ apart, identity [0-9a-f]{12}$", said)


def test_two_encoders_of_ours_are_kept_bit_by_bit(tmp_path: Path):
    found = source("own_towers", tmp_path)
    (tmp_path / "written").mkdir()
    OurCheckpoint().write(found, tmp_path / "written", few())
    assert load(tmp_path / "written").identity == found.identity
    assert imports.architecture(found) == "image cnn, text lstm"


def test_a_file_of_open_clips_trainer_is_imported_with_its_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_this_process(monkeypatch)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL_CFG)
    theirs = open_clip.CLIP(**MODEL_CFG, init_logit_bias=-10.0)
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_1.pt")
    imported = import_model(f"tiny@{tmp_path / 'epoch_1.pt'}", tmp_path / "ours")
    found = load(tmp_path / "ours").model.state_dict()
    expected = theirs.state_dict()
    assert found.keys() == {f"inner.{name}" for name in expected}
    assert all(torch.equal(found[f"inner.{k}"].reshape(v.shape), v) for k, v in expected.items())
    assert ", bias -10\n" in "\n".join(imported.lines())


def test_the_average_of_a_run_is_imported_as_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_this_process(monkeypatch)
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    folder = save(tmp_path / "run" / "checkpoints" / "step-00000007", built, {"step": 7})
    average = {name: value + 1 for name, value in built.model.state_dict().items()}
    write_tensors(folder / "ema.safetensors", average)
    import_model(str(tmp_path / "run"), tmp_path / "ours", "ema")
    shutil.rmtree(tmp_path / "run")
    loaded = load(tmp_path / "ours")
    assert all(torch.equal(value, average[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.info["step"] == 7
    assert loaded.info["imported"]["form"] == str(folder)


def test_an_existing_folder_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="exists already"):
        import_model("nowhere", tmp_path)


def test_a_tokenizer_that_gives_other_ids_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_this_process(monkeypatch)
    write = OurCheckpoint.write

    def spoilt(self, found, folder, probe):
        written = write(self, found, folder, probe)
        file = folder / "tokenizer" / "tokenizer.json"
        file.write_text(file.read_text().replace('"a":', '"other":'))
        return written

    model = Path(__file__).parents[1] / "parity" / "model"  # its tokenizer has files
    assert import_model(str(model), tmp_path / "good").parity.ids_equal == 1
    monkeypatch.setattr(OurCheckpoint, "write", spoilt)
    with pytest.raises(ModelError, match="what was written of it is not it: its tokenizer gives other ids"):
        import_model(str(model), tmp_path / "ours")


@pytest.mark.parametrize("what", ["checkpoint.json", "model.safetensors"])
def test_what_is_not_the_model_is_not_kept(
    local_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
):
    """As if the disk or this code had changed it while it was written."""
    in_this_process(monkeypatch)
    write = OurCheckpoint.write

    def spoilt(self, found, folder, probe):
        written = write(self, found, folder, probe)
        if what == "checkpoint.json":
            description = json.loads((folder / what).read_text())
            description["preprocess"]["fill_color"] = 3  # square images do not show it
            (folder / what).write_text(json.dumps(description))
        else:
            weights = {name: value.clone() for name, value in found.built.model.state_dict().items()}
            weights["inner.text_projection"][0, 0] += 1e-9
            weights["inner.visual.proj"][0] += 1
            write_tensors(folder / what, weights)
        return written

    monkeypatch.setattr(OurCheckpoint, "write", spoilt)
    rule = (
        "its weights or its preprocessing are others"
        if what == "checkpoint.json"
        else "the image tower differs: unit vectors are"
    )
    with pytest.raises(ModelError, match=f"what was written of it is not it: {rule}"):
        import_model(str(local_dir), tmp_path / "ours")
    assert not list(tmp_path.glob("*ours*"))
