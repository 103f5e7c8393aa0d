"""Damaged checkpoints: the newest sound one is taken and the others are named; if there is none, the run stops."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import Run
from tests.faults.test_killed import kill, require_same_end

New = Callable[..., Run]
KEEP = "train.keep_checkpoints=20"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Run:
    """A run killed with seven checkpoints."""
    run = Run(tmp_path_factory.mktemp("interrupted"), pairs, 2, (KEEP,))
    kill(run, "after_rename:0:35:kill_all")
    assert run.saved() == [5, 10, 15, 20, 25, 30, 35]
    return run


@pytest.fixture
def copy(new_run: New, interrupted: Run) -> Run:
    run = new_run(2, KEEP)
    shutil.copytree(interrupted.directory, run.directory)
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 4] ^= 1
    path.write_bytes(content)


def state(run: Run) -> dict[str, str]:
    files = [path for path in run.directory.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.fault(21)
def test_one_flipped_bit_in_any_file_is_noticed_and_an_older_checkpoint_is_taken(copy: Run, undisturbed: New):
    for step, name in ((35, "model"), (30, "training"), (25, "random"), (20, "ema")):
        flip(copy.checkpoint(step) / f"{name}.safetensors")
    copy.finish()
    for step, name in ((35, "model"), (30, "training"), (25, "random"), (20, "ema")):
        what = f"{name}.safetensors is not what was written (manifest mismatch)"
        assert f"skipped: {copy.checkpoint(step)}: {what}" in copy.log()
    assert "goes on at step 15 of" in copy.log()
    require_same_end(copy, undisturbed())


@pytest.mark.fault(22)
def test_cut_empty_missing_and_unreadable_files_are_passed_over(copy: Run, undisturbed: New):
    model = copy.checkpoint(35) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    (copy.checkpoint(30) / "training.safetensors").write_bytes(b"")
    (copy.checkpoint(25) / "random.safetensors").unlink()
    shutil.rmtree(copy.checkpoint(20))
    copy.checkpoint(20).mkdir()
    (copy.checkpoint(15) / "manifest.json").write_text('{"format": 1, "files": {')
    (copy.checkpoint(10) / "manifest.json").write_text("[]")
    copy.checkpoint(999).write_text("a stray file")
    copy.checkpoint(0).with_name("step-abc").mkdir()
    copy.finish()
    problems = {
        35: "model.safetensors has",
        30: "training.safetensors has 0 bytes",
        25: "random.safetensors is missing",
        20: "manifest.json is missing",
        15: "manifest.json cannot be read",
        10: "manifest.json cannot be read",
    }
    for step, problem in problems.items():
        assert f"skipped: {copy.checkpoint(step)}: {problem}" in copy.log()
    assert copy.log().count("skipped: ") == len(problems)
    assert "goes on at step 5 of" in copy.log()
    copy.checkpoint(999).unlink()
    require_same_end(copy, undisturbed())


@pytest.mark.fault(23)
def test_a_run_of_which_every_checkpoint_is_damaged_stops_and_changes_nothing(copy: Run):
    for step in copy.saved():
        flip(copy.checkpoint(step) / "model.safetensors")
    before = state(copy)
    for _ in range(2):
        statuses = copy.start().wait(30)
        assert set(statuses) == {2}, copy.log()
        assert state(copy) == before
    assert copy.log().count(f"error: run.directory: every checkpoint of {copy.directory} is damaged") == 2


@pytest.mark.fault(34)
def test_the_checkpoint_of_another_model_is_refused(copy: Run, new_run: New):
    other = new_run(1, "model.model_cfg.embed_dim=24", "train.save_every_steps=null")
    other.finish()
    for step in copy.saved():
        shutil.rmtree(copy.checkpoint(step))
    shutil.copytree(other.checkpoint(40), copy.checkpoint(35))
    before = state(copy)
    job = copy.start()
    assert job.wait_for_one() == 2, copy.log()
    assert "is of another model" in copy.log()
    assert {path: digest for path, digest in state(copy).items() if "checkpoints" in path} == {
        path: digest for path, digest in before.items() if "checkpoints" in path
    }
