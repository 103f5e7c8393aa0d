"""A run that goes on with other settings: harmless ones are taken, schedules are changed and said, others refused."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import toys
from tests.faults.runs import LAST, Run
from tests.faults.test_damaged import state
from tests.faults.test_killed import kill

New = Callable[..., Run]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Run:
    """A run killed when it had saved step 15."""
    run = Run(tmp_path_factory.mktemp("interrupted"), pairs)
    kill(run, "after_rename:0:15:kill_all")
    return run


@pytest.fixture
def copy(new_run: New, interrupted: Run) -> Run:
    run = new_run()
    shutil.copytree(interrupted.directory, run.directory)
    return run


@pytest.mark.fault(33)
def test_another_rate_and_length_are_applied_and_said(copy: Run):
    copy.finish("optim.learning_rate=0.001", "train.total_samples=400", "tracking.log_every_steps=2")
    assert "changed from here on: optim.learning_rate 0.003 -> 0.001" in copy.log()
    assert "changed from here on: train.total_samples 320 -> 400" in copy.log()
    assert "changed: tracking.log_every_steps 1 -> 2" in copy.log()
    rates = {row["step"]: row["learning_rate"] for row in copy.records()}
    assert rates[15] == pytest.approx(0.0015 * (1 + math.cos(math.pi * 14 / LAST)))
    for step in range(16, 51, 2):
        assert rates[step] == pytest.approx(0.0005 * (1 + math.cos(math.pi * (step - 1) / 50))), step
    assert max(rates) == 50


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("model.model_cfg.embed_dim=24", "model.model_cfg.embed_dim 16 -> 24"),
        ("train.seed=1", "train.seed 0 -> 1"),
        ("data.global_batch_size=4", "data.global_batch_size 8 -> 4"),
    ],
)
def test_what_makes_it_another_run_is_refused_and_nothing_is_changed(copy: Run, change: str, key: str):
    before = state(copy)
    assert copy.start(change).wait_for_one() == 2, copy.log()
    assert f"holds a run with other settings: {key}; " in copy.log()
    assert f"run.accept_changes=[{key.split()[0]}]" in copy.log()
    assert "Traceback" not in copy.log()
    assert state(copy) == before


@pytest.mark.fault(33)
def test_other_samples_are_refused_unless_they_are_accepted(copy: Run, tmp_path: Path):
    copy.shards = toys.write_shards(tmp_path / "others" / "shards", 32)
    before = state(copy)
    assert copy.start().wait_for_one() == 2, copy.log()
    assert "the shards hold other samples" in copy.log()
    assert state(copy) == before
    copy.finish("run.accept_changes=[data]")
    assert copy.saved()[-1] == LAST


@pytest.mark.fault(33)
def test_another_batch_is_taken_when_it_is_accepted_by_name(copy: Run):
    copy.finish("data.global_batch_size=4", "run.accept_changes=[data.global_batch_size]")
    assert copy.saved()[-1] == 15 + (320 - 15 * 8) // 4


@pytest.mark.fault(34)
def test_a_finished_run_takes_no_further_step(new_run: New):
    run = new_run()
    run.finish()
    before = state(run)
    job = run.start()
    assert job.wait(20) == [0, 0]
    assert "already finished; nothing to do" in run.log()
    assert state(run) == before


@pytest.mark.fault(34)
@pytest.mark.parametrize("what", ["missing", "without a checkpoint"])
def test_must_is_refused_where_nothing_can_go_on(new_run: New, what: str):
    run = new_run()
    if what == "without a checkpoint":
        kill(run, "step:0:3:kill_all")
    assert run.start("run.resume=must").wait_for_one() == 2, run.log()
    assert "error: run.resume: must, and " in run.log()
    assert not run.saved()


@pytest.mark.fault(34)
def test_never_is_refused_where_a_run_is(copy: Run):
    before = state(copy)
    assert copy.start("run.resume=never").wait_for_one() == 2, copy.log()
    assert "holds a run, and run.resume is never" in copy.log()
    assert state(copy) == before


@pytest.mark.fault(34)
def test_a_run_without_a_checkpoint_says_that_it_begins_again(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "step:0:3:kill_all")
    run.finish()
    assert "no checkpoint was ever written; the run begins again at its first step" in run.log()
    assert run.digest() == undisturbed().digest()
