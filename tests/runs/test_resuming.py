"""A run in several launches, in one process; tests/faults does it with real ones."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contrastive.errors import DataError, Preempted, RunError, UserError
from contrastive.runs.evaluate import Request, evaluate
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys
from tests.toys import records

DROPOUT = "model.model_cfg.vision_cfg.patch_dropout=0.5"


class Stops(torch.nn.Module):
    """A loss in whose second forward of a launch the process is asked to end."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, features: dict, batch: dict) -> dict[str, torch.Tensor]:
        self.steps += 1
        if self.steps == 2 and os.environ.get("STOPS"):
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 0 * features["image_features"].sum()}


STOPS = [f"losses={{a: {{name: infonce}}, stops: {{name: '{__name__}:Stops'}}}}", DROPOUT, "train.ema_decay=0.9"]


def run(overrides: list[str]) -> Path:
    prepared = prepare([], overrides)
    assert prepared is not None
    return pretrain(prepared)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    names = ("model", "ema", "training")
    return {f"{name}/{k}": v for name in names for k, v in load_file(newest / f"{name}.safetensors").items()}


def require_equal(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def test_a_run_that_is_asked_to_end_again_and_again_ends_as_one_that_is_not(
    shards: Path, tmp_path: Path, classes: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    evaluated = [*STOPS, f"eval.datasets=[{classes}]", "eval.every_steps=2"]
    whole = run(toys.overrides(shards, tmp_path / "whole", *evaluated))
    monkeypatch.setenv("STOPS", "1")
    arguments = toys.overrides(shards, tmp_path / "run", *evaluated)
    for launch in (1, 2, 3):
        with pytest.raises(Preempted), caplog.at_level("INFO", "contrastive"):
            run(arguments)
        said = json.loads((tmp_path / "run" / "preempted.json").read_text())
        assert (said["signal"], said["step"]) == ("SIGTERM", 2 * launch)
    assert not (tmp_path / "run" / "finished.json").exists()
    run(arguments)  # its steps are taken; the evaluation of the last one is not
    assert not (tmp_path / "run" / "preempted.json").exists()
    assert "goes on at step 4 of" in caplog.text
    require_equal(whole, tmp_path / "run")
    for kind in ("train", "eval"):
        one, other = records(whole, kind), records(tmp_path / "run", kind)
        assert [row["step"] for row in one] == [row["step"] for row in other]
        for name in ("loss", "learning_rate", "samples_seen", "metrics"):
            assert [row.get(name) for row in one] == [row.get(name) for row in other]
    assert [row["step"] for row in records(tmp_path / "run", "resume")] == [2, 4, 6]
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert prepare([], arguments) is None
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


@pytest.fixture
def interrupted(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run that was asked to end after two of its six steps."""
    arguments = toys.overrides(shards, tmp_path / "run", *STOPS)
    monkeypatch.setenv("STOPS", "1")
    with pytest.raises(Preempted):
        run(arguments)
    monkeypatch.delenv("STOPS")
    return arguments


def test_a_new_schedule_is_applied_from_here_on_and_said(
    interrupted: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", "contrastive"):
        run([*interrupted, "train.total_samples=80", "optim.learning_rate=0.25", "optim.final_learning_rate=0.25"])
    assert "changed from here on: optim.learning_rate 0.0005 -> 0.25" in caplog.text
    rows = records(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["learning_rate"] for row in rows[2:]] == [0.25] * 8
    assert "learning_rate: 0.25" in (tmp_path / "run" / "config.yaml").read_text()
    assert "optim.learning_rate 0.0005 -> 0.25" in records(tmp_path / "run", "resume")[0]["changes"]


def test_another_batch_size_is_refused_and_when_accepted_repeats_and_misses_no_sample(
    interrupted: list[str], tmp_path: Path
):
    other = [*interrupted, "data.global_batch_size=4"]
    with pytest.raises(RunError, match=r"other settings: data\.global_batch_size 8 -> 4; .*accept_changes"):
        run(other)
    run([*other, "run.accept_changes=[data.global_batch_size]"])
    rows = records(tmp_path / "run")
    assert [(row["step"], row["samples_seen"]) for row in rows[1:4]] == [(2, 16), (3, 20), (4, 24)]
    assert rows[-1]["samples_seen"] == 48
    facts = json.loads(next((tmp_path / "run").glob("checkpoints/step-00000010/training.json")).read_text())
    assert facts["data"]["consumed"] == 48


def test_other_data_are_refused_and_when_accepted_begin_a_new_pass(
    interrupted: list[str], tmp_path: Path, shards: Path
):
    toys.write_tar(shards / "00009.tar", toys.members(77))
    with pytest.raises(DataError, match=r"the shards hold other samples .* run\.accept_changes=\[data\]"):
        run(interrupted)
    run([*interrupted, "run.accept_changes=[data]"])
    last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    facts = json.loads((last / "training.json").read_text())
    assert (facts["samples_seen"], facts["data"]["consumed"]) == (48, 32)


def test_a_damaged_checkpoint_is_passed_over_and_if_all_are_nothing_is_begun(
    interrupted: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-00000002", folder / "step-00000003")
    (folder / "step-00000003" / "model.safetensors").write_bytes(b"torn")
    (folder / "step-00000004").mkdir()
    run(interrupted)
    assert "step-00000004: manifest.json is missing" in caplog.text
    assert "step-00000003: model.safetensors has 4 bytes, not the" in caplog.text
    shutil.copytree(tmp_path / "run", tmp_path / "bad")
    (tmp_path / "bad" / "finished.json").unlink()
    for checkpoint in (tmp_path / "bad" / "checkpoints").glob("step-*"):
        (checkpoint / "training.safetensors").unlink(missing_ok=True)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "bad").rglob("*.json*") if path.name[0] != ".")
    with pytest.raises(RunError, match=r"every checkpoint of .*bad is damaged \(.* is missing\)"):
        run([*interrupted, f"run.directory={tmp_path / 'bad'}"])
    after = sorted(path.stat().st_mtime_ns for path in (tmp_path / "bad").rglob("*.json*") if path.name[0] != ".")
    assert before == after


def test_a_run_without_a_checkpoint_begins_again_and_says_so(
    interrupted: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"run\.resume: must, and .* holds no checkpoint to go on with"):
        run([*interrupted, "run.resume=must"])
    run(interrupted)
    assert "no checkpoint was ever written; the run begins again at its first step" in caplog.text
    assert [row["step"] for row in records(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_come_by_the_clock_too(shards: Path, tmp_path: Path):
    folder = run(
        toys.overrides(shards, tmp_path / "run", "train.save_every_minutes=0.001", "train.keep_checkpoints=null")
    )
    assert len(list((folder / "checkpoints").glob("step-*"))) > 1


def test_the_best_checkpoints_stay_and_a_metric_that_is_none_is_named(shards: Path, tmp_path: Path, classes: Path):
    given = [f"eval.datasets=[{classes}]", "eval.every_steps=1", "train.keep_best=2"]
    with pytest.raises(
        UserError, match=r"train\.best_metric: 'toy/x/y' must be DATASET/TASK/METRIC of eval\.datasets: toy/"
    ):
        prepare([], toys.overrides(shards, tmp_path / "a", *given, "train.best_metric=toy/x/y"))
    row = records(run(toys.overrides(shards, tmp_path / "b", *given)), "eval")[0]
    task, metric = row["task"], next(iter(row["metrics"]))
    with pytest.raises(UserError, match=rf"train\.best_metric: 'toy/{task}/y' is none of toy/{task}/{metric}"):
        run(toys.overrides(shards, tmp_path / "c", *given, f"train.best_metric=toy/{task}/y"))
    folder = run(toys.overrides(shards, tmp_path / "d", *given, f"train.best_metric=toy/{task}/{metric}"))
    values = {row["step"]: row["metrics"][metric] for row in records(folder, "eval") if row["task"] == task}
    expected = sorted(values, key=lambda step: (-values[step], step))[:2]
    best = json.loads((folder / "checkpoints" / "best.json").read_text())["checkpoints"]
    assert [one["step"] for one in best] == expected
    assert {p.name for p in (folder / "checkpoints").glob("step-*")} == {
        f"step-{step:08d}" for step in {5, 6, *expected}
    }


def test_averaged_weights_are_evaluated_on_request(shards: Path, tmp_path: Path, classes: Path):
    given = [f"eval.datasets=[{classes}]", "eval.weights=ema", "optim.learning_rate=0.05"]
    with pytest.raises(UserError, match=r"eval\.weights: ema needs train\.ema_decay"):
        prepare([], toys.overrides(shards, tmp_path / "a", *given))
    folder = run(toys.overrides(shards, tmp_path / "b", *given, "train.ema_decay=0.5"))
    rows = records(folder, "eval")
    assert [row["weights"] for row in rows] == ["ema", "ema"]
    results = evaluate(Request(str(folder), batch_size=4, device="cpu", weights="ema", resamples=0))
    for result, row in zip(results, rows, strict=True):
        assert result.metrics == pytest.approx(row["metrics"], abs=1e-6)
