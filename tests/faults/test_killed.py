"""SIGKILL at any moment, resume, and the weights, the optimizer and the average are bit-identical."""

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.runs import LAST, Run

New = Callable[..., Run]


def require_same_end(run: Run, other: Run) -> None:
    assert run.saved()[-1] == LAST
    assert run.digest() == other.digest()
    assert [row["step"] for row in run.records()] == list(range(1, LAST + 1))
    assert [row["loss"] for row in run.records()] == [row["loss"] for row in other.records()]


def kill(run: Run, fault: str) -> None:
    """Let a run kill itself, all ranks at once."""
    job = run.start(fault=fault)
    assert set(job.wait()) == {137}, run.log()


def kill_at_random(run: Run, seed: int) -> None:
    chance = random.Random(seed)
    job = run.start()
    job.until_step(chance.randrange(1, LAST - 1))
    time.sleep(chance.uniform(0, 0.05))
    job.kill()
    assert set(job.statuses.values()) == {137}


@pytest.mark.fault(1)
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[] if n < 3 else pytest.mark.slow) for n in range(20)])
def test_a_run_killed_at_a_random_moment_ends_as_if_nothing_had_been(new_run: New, undisturbed: New, seed: int):
    run = new_run()
    kill_at_random(run, seed)
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(2)
def test_killed_before_a_checkpoint_is_written(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "before_write:0:15:kill_all")
    assert run.saved() == [5, 10]
    run.finish()
    assert "goes on at step 10 of" in run.log()
    require_same_end(run, undisturbed())


@pytest.mark.fault(3)
def test_killed_between_the_model_and_the_optimizer(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "after_model:0:15:kill_all")
    draft = run.directory / "checkpoints" / ".step-00000015.writing"
    assert [path.name for path in draft.glob("*.safetensors")] == ["model.safetensors"]
    assert run.saved() == [5, 10]
    run.finish()
    assert "goes on at step 10 of" in run.log()
    assert not draft.exists()
    require_same_end(run, undisturbed())


@pytest.mark.fault(4)
def test_killed_when_a_checkpoint_is_written_and_not_yet_named(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "before_rename:0:15:kill_all")
    assert (run.directory / "checkpoints" / ".step-00000015.writing" / "manifest.json").is_file()
    run.finish()
    assert "goes on at step 10 of" in run.log()
    require_same_end(run, undisturbed())


@pytest.mark.fault(5)
def test_killed_before_old_checkpoints_are_pruned(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "after_rename:0:15:kill_all")
    assert run.saved() == [5, 10, 15]
    run.finish()
    assert "goes on at step 15 of" in run.log()
    assert run.saved() == [35, LAST]
    require_same_end(run, undisturbed())


@pytest.mark.fault(6)
def test_killed_while_an_old_checkpoint_is_removed(new_run: New, undisturbed: New):
    run = new_run()
    kill(run, "in_prune:0:5:kill_all")
    assert run.saved() == [10, 15]
    doomed = run.directory / "checkpoints" / ".step-00000005.removing"
    assert doomed.is_dir()
    run.finish()
    assert "goes on at step 15 of" in run.log()
    assert not doomed.exists()
    require_same_end(run, undisturbed())


@pytest.mark.fault(7)
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_rank_dies_and_the_other_ends_by_itself(new_run: New, undisturbed: New, rank: int):
    run = new_run()
    job = run.start(fault=f"step:{rank}:18:kill")
    job.until(lambda: rank in job.statuses or job.poll())
    began = time.monotonic()
    statuses = job.wait(10)
    assert time.monotonic() - began < 10
    assert statuses[rank] == 137
    assert statuses[1 - rank] not in (0, 137), run.log()
    assert not job.left()
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(7)
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_rank_dies_under_a_launcher(new_run: New, undisturbed: New, rank: int):
    run = new_run()
    job = run.launch()
    job.until_step(12, 120)
    run.find_ranks(job)
    began = time.monotonic()
    job.signal(signal.SIGKILL, rank)
    assert job.wait(30) == [1]
    assert time.monotonic() - began < 10
    assert not job.left()
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(31)
@pytest.mark.parametrize("world_size", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_more_ranks_sum_their_gradients_in_the_same_order_after_a_resume(
    new_run: New, undisturbed: New, world_size: int
):
    batch = f"data.global_batch_size={2 * world_size}"
    settings = (batch, f"train.total_samples={2 * world_size * LAST}")
    run = new_run(world_size, *settings)
    kill(run, "step:0:18:kill_all")
    run.finish()
    require_same_end(run, undisturbed(world_size, *settings))


@pytest.mark.fault(36)
def test_killed_between_the_micro_batches_of_a_step(new_run: New, undisturbed: New):
    settings = ("train.micro_batch_size=2",)
    run = new_run(2, *settings)
    kill(run, "micro:1:18:kill_all")
    step = run.saved()[-1]
    assert step in (10, 15)  # whichever was on disk
    run.finish()
    assert "cached, 2 image micro-batches of 2" in run.log()
    assert f"goes on at step {step} of" in run.log()
    require_same_end(run, undisturbed(2, *settings))


@pytest.mark.fault(35)
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_the_learning_rate_is_a_function_of_the_samples_however_often_it_is_killed(
    new_run: New, undisturbed: New, kills: int
):
    settings = ("optim.warmup_samples=80",)
    run = new_run(2, *settings)
    for number in range(kills):
        kill(run, f"step:1:{LAST * (number + 1) // (kills + 1)}:kill_all")
    run.finish()
    rates = [row["learning_rate"] for row in run.records()]
    assert rates == [row["learning_rate"] for row in undisturbed(1, *settings).records()]
    assert rates[:10] == pytest.approx([0.003 * step / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
