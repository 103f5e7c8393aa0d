"""A disk that is full or read-only, figures that cannot be written, a clock that jumps."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import LAST, Run
from tests.faults.test_killed import kill, require_same_end

New = Callable[..., Run]
LITTLE = 300_000  # bytes: enough for the figures, too few for a model


def drafts(run: Run) -> list[Path]:
    return list((run.directory / "checkpoints").glob(".*"))


@pytest.mark.fault(18)
def test_a_save_that_finds_the_disk_full_leaves_the_old_checkpoints_and_nothing_else(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, f"before_write:0:15:limit={LITTLE};before_write:0:25:kill_all")
    assert run.saved() == [5, 10]
    assert [path.name for path in drafts(run)] == [".step-00000025.writing"]  # the one it died in
    assert "a checkpoint could not be written (2 in a row): " in run.log()
    run.finish()
    assert "goes on at step 10 of" in run.log()
    require_same_end(run, undisturbed())


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    "fault",
    [
        f"before_write:0:15:limit={LITTLE};before_write:0:25:limit=none",
        f"after_rename:0:10:free=1000;step:0:24:free={10**12}",
    ],
    ids=["full", "nearly full"],
)
def test_training_goes_on_while_the_disk_is_full(new_run: New, undisturbed: New, fault: str):
    run = new_run()
    run.finish(fault=fault)
    warnings = [line for line in run.log().splitlines() if "could not be written" in line]
    assert ["(1 in a row)" in warnings[0], "(2 in a row)" in warnings[1], len(warnings)] == [True, True, 2]
    assert all(str(run.directory / "checkpoints") in line for line in warnings)
    require_same_end(run, undisturbed())


@pytest.mark.fault(18)
def test_a_disk_that_stays_full_ends_the_run(new_run: New):
    run = new_run(2, "train.max_failed_saves=1")
    job = run.start(fault=f"before_write:0:10:limit={LITTLE}")
    assert job.wait() == [2, 2], run.log()
    assert "2 checkpoints in a row could not be written (train.max_failed_saves)" in run.log()
    assert run.saved() == [5]
    assert not drafts(run)


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    "fault", [f"before_write:0:40:limit={LITTLE}", "after_rename:0:35:free=1000"], ids=["full", "nearly full"]
)
def test_a_last_save_that_fails_fails_the_run(new_run: New, undisturbed: New, fault: str):
    run = new_run()
    job = run.start(fault=fault)
    assert job.wait() == [2, 2], run.log()
    (line,) = set(re.findall(r"^\[rank \d\] error: (.*)", run.log(), re.MULTILINE))
    assert "could not be written" in line
    assert str(run.directory / "checkpoints") in line
    if "free" in fault:
        assert "bytes are needed and 1,000 are free" in line
    assert not (run.directory / "finished.json").exists()
    assert run.saved() == [30, 35]
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(20)
@pytest.mark.parametrize("is_there", [True, False], ids=["the directory", "its parent"])
def test_a_read_only_directory_is_refused_before_the_first_step(new_run: New, is_there: bool):
    run = new_run()
    if is_there:
        run.directory.mkdir()
        run.directory.chmod(0o500)
    (run.folder / "log").touch()
    run.folder.chmod(0o500)
    try:
        job = run.start(fault="start:*:0:unprivileged")
        assert job.wait_for_one(20) == 2, run.log()
        assert f"run.directory: {run.directory} cannot be written" in run.log()
        assert "step 1/" not in run.log()
        assert not list(run.folder.glob("run/*"))
    finally:
        run.folder.chmod(0o700)


@pytest.mark.fault(20)
def test_a_run_that_has_become_read_only_is_refused(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "step:0:12:kill_all")
    run.directory.chmod(0o500)
    try:
        assert run.start(fault="start:*:0:unprivileged").wait_for_one(20) == 2, run.log()
    finally:
        run.directory.chmod(0o700)
    assert "cannot be written" in run.log()
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(38)
def test_a_clock_that_jumps_changes_nothing(new_run: New, undisturbed: New):
    run = new_run(2, "train.save_every_minutes=10", "train.hang_seconds=20")
    run.finish(fault="step:*:12:clock=90000;step:0:20:clock=-200000")
    require_same_end(run, undisturbed())
    assert [row["seconds"] for row in run.records()] == sorted(row["seconds"] for row in run.records())


@pytest.mark.fault(38)
def test_figures_that_cannot_be_written_cost_one_warning(new_run: New, undisturbed: New):
    run = new_run()
    run.finish(fault="journal:0:12-20:refuse=the disk is gone")
    assert run.log().count("metrics.jsonl: records are lost (the disk is gone)") == 1
    assert run.digest() == undisturbed().digest()
    assert json.loads((run.directory / "finished.json").read_text())["step"] == LAST


@pytest.mark.fault(38)
def test_figures_that_are_deleted_cost_one_warning(new_run: New, undisturbed: New):
    run = new_run(2, "tracking.tensorboard=true")
    gone = [run.directory / "metrics.jsonl", run.directory / "tensorboard"]
    run.finish(fault=";".join(f"step:0:12:remove={path}" for path in gone))
    assert run.log().count("metrics.jsonl was deleted; it goes on in a new file") == 1
    assert [row["step"] for row in run.records()] == list(range(12, LAST + 1))
    assert run.digest() == undisturbed().digest()
