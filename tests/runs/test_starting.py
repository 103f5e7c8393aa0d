"""A run that begins with another's weights, and goes on without them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contrastive.errors import ModelError, Preempted, RunError
from contrastive.models.checkpoint import load
from contrastive.runs.pretrain import prepare
from tests import toys
from tests.models.test_build import local_dir  # noqa: F401  (a fixture)
from tests.runs.test_resuming import STOPS, require_equal, run

SIGMOID = [
    STOPS[0].replace("infonce", "sigmoid"),
    "model.init_logit_bias=-10",
    "model.init_temperature=0.1",
    "train.ema_decay=0.9",
]


def overrides(shards: Path, run_directory: Path, checkpoint: Path | str, *more: str) -> list[str]:
    settings = [one for one in toys.overrides(shards, run_directory) if not one.startswith("model.")]
    return [f"model.checkpoint={checkpoint}", *settings, *more]


@pytest.fixture
def original(local_dir: Path, tmp_path: Path) -> Path:  # noqa: F811
    """An open_clip folder that may be taken away."""
    folder = tmp_path / "original"
    folder.mkdir()
    for file in local_dir.glob("open_clip*"):
        shutil.move(file, folder)
    return folder


def test_a_run_begins_with_the_weights_of_its_checkpoint(shards: Path, tmp_path: Path, original: Path):
    still = ["optim.learning_rate=0", "train.total_samples=8"]
    folder = run(overrides(shards, tmp_path / "run", f"local-dir:{original}", *still))
    found = load(folder).model.state_dict()
    expected = load_file(original / "open_clip_model.safetensors")
    assert all(torch.equal(found[f"inner.{name}"].reshape(value.shape), value) for name, value in expected.items())


def test_it_goes_on_and_ends_as_one_that_was_not_stopped_when_the_original_is_gone(
    shards: Path, tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "contrastive"):
        whole = run(overrides(shards, tmp_path / "whole", original, *SIGMOID))
    assert f"begins with {original}" in caplog.text
    monkeypatch.setenv("STOPS", "1")
    with pytest.raises(Preempted):
        run(overrides(shards, tmp_path / "run", original, *SIGMOID))
    shutil.rmtree(original)
    monkeypatch.delenv("STOPS")
    caplog.clear()
    run(overrides(shards, tmp_path / "run", original, *SIGMOID))
    assert "begins with" not in caplog.text
    require_equal(whole, tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert loaded.model.logit_bias is not None
    assert prepare([str(whole / "config.yaml")], []) is None  # it has ended; the original is not asked for


def test_another_checkpoint_makes_it_another_run(shards: Path, tmp_path: Path, original: Path):
    shutil.copytree(original, tmp_path / "other")
    run(overrides(shards, tmp_path / "run", original))
    with pytest.raises(RunError, match=r"holds a run with other settings: model\.checkpoint "):
        prepare([], overrides(shards, tmp_path / "run", tmp_path / "other"))


def test_a_damaged_original_is_refused_before_anything_is_written(shards: Path, tmp_path: Path, original: Path):
    with (original / "open_clip_model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelError, match=r"^model\.checkpoint: local-dir:"):
        prepare([], overrides(shards, tmp_path / "run", original))
    assert not (tmp_path / "run").exists()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(shards: Path, tmp_path: Path, original: Path):
    arguments = overrides(shards, tmp_path / "run", original, "train.save_every_steps=4")
    run(arguments)
    for file in (tmp_path / "run" / "checkpoints").glob("step-*/checkpoint.json"):
        file.write_text("{")
    with pytest.raises(RunError, match=r"every checkpoint of .*run is damaged .*bring one back from a copy"):
        run([*arguments, "train.total_samples=96"])
