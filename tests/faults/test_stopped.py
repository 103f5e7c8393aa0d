"""A signal: all ranks agree on a step, save, say so and end; the same command goes on from there."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import LAST, Job, Run
from tests.faults.test_killed import require_same_end

New = Callable[..., Run]


def marker(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.directory / "preempted.json").read_text()))


def require_saved(run: Run, name: str) -> int:
    """Require that the run has said where it stopped, and that it is saved there; return the step."""
    said = marker(run)
    assert set(said) == {"signal", "step", "checkpoint", "time"}
    assert said["signal"] == name
    assert run.saved()[-1] == said["step"] == run.step()
    assert Path(said["checkpoint"]) == run.checkpoint(said["step"])
    return int(said["step"])


def require_goes_on(run: Run, step: int, other: Run) -> None:
    run.finish()
    assert f"goes on at step {step} of" in run.log()
    assert not (run.directory / "preempted.json").exists()
    require_same_end(run, other)


def ask(job: Job, number: signal.Signals, *ranks: int) -> list[int]:
    """Signal a run in the middle of its steps, and wait for its end."""
    job.until_step(12)
    job.signal(number, *ranks)
    return job.wait(15)


@pytest.mark.fault(11)
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_launcher_is_asked_to_end(new_run: New, undisturbed: New, workers: int):
    run = new_run(2, f"data.workers={workers}")
    job = run.launch()
    job.until_step(12, 120)
    assert job.launcher is not None
    job.launcher.terminate()
    assert job.wait(45)[0] != 0  # whatever its ranks say
    assert not job.left()
    require_goes_on(run, require_saved(run, "SIGTERM"), undisturbed())


@pytest.mark.fault(11)
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_all_ranks_and_their_loader_workers_are_asked_to_end(new_run: New, undisturbed: New, workers: int):
    run = new_run(2, f"data.workers={workers}")
    job = run.start()
    assert ask(job, signal.SIGTERM) == [143, 143], run.log()
    assert not job.left()
    require_goes_on(run, require_saved(run, "SIGTERM"), undisturbed())


@pytest.mark.fault(12)
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_one_rank_is_asked_to_end_and_all_stop_at_the_same_step(new_run: New, undisturbed: New, number: signal.Signals):
    run = new_run()
    assert ask(run.start(), number, 1) == [128 + number] * 2, run.log()
    step = require_saved(run, number.name)
    assert step in range(12, LAST)
    require_goes_on(run, step, undisturbed())


@pytest.mark.fault(13)
def test_asked_during_an_evaluation_it_is_saved_within_a_batch(new_run: New, undisturbed: New, classes: Path):
    settings = (f"eval.datasets=['{classes}']", "eval.every_steps=15", "eval.batch_size=1")
    run = new_run(2, *settings)
    job = run.start(fault="eval:1:15:signal=15;eval:*:15-15:sleep=0.05")
    assert job.wait() == [143, 143], run.log()
    assert require_saved(run, "SIGTERM") == 15
    assert not run.records("eval")
    require_goes_on(run, 15, undisturbed())
    assert sorted({row["step"] for row in run.records("eval")}) == [15, 30, LAST]


@pytest.mark.fault(13)
def test_asked_during_a_save_it_is_finished_first(new_run: New, undisturbed: New):
    run = new_run()
    job = run.start(fault="before_rename:0:15:signal=15;before_rename:0:15:sleep=1")
    assert job.wait() == [143, 143], run.log()
    step = require_saved(run, "SIGTERM")
    assert step > 15
    assert run.saved() == [15, step]
    require_goes_on(run, step, undisturbed())


@pytest.mark.fault(13)
def test_asked_twice_it_ends_now_and_the_old_checkpoint_is_whole(new_run: New, undisturbed: New):
    run = new_run()
    job = run.start(fault="before_write:0:15:sleep=60")
    job.until((run.directory / "checkpoints" / ".step-00000015.writing").is_dir)
    job.until_step(16)
    job.signal(signal.SIGTERM)
    time.sleep(1.5)
    assert not job.poll()
    job.signal(signal.SIGTERM)
    assert job.wait(3) == [143, 143]
    assert run.log().count("SIGTERM again: ending now") == 2
    assert run.saved() == [5, 10]
    require_goes_on(run, 10, undisturbed())


@pytest.mark.fault(14)
def test_ctrl_c_in_a_terminal_saves_once(new_run: New, undisturbed: New):
    run = new_run(2, "data.workers=2")
    job = run.start()
    assert ask(job, signal.SIGINT) == [130, 130], run.log()
    assert "Traceback" not in run.log()
    assert not job.left()
    require_goes_on(run, require_saved(run, "SIGINT"), undisturbed())
