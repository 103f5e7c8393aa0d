"""Who stands still, is slow, or is missing: the run ends and says where it was, or names who holds it up."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import toys
from tests.faults.runs import Run
from tests.faults.test_killed import require_same_end

New = Callable[..., Run]
HANG = 3


@pytest.mark.fault(8)
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_frozen_rank_ends_the_others_with_their_stacks(new_run: New, undisturbed: New, rank: int):
    run = new_run(2, f"train.hang_seconds={HANG}", "train.start_seconds=30")
    job = run.start()
    job.until_step(12)
    began = time.monotonic()
    job.signal(signal.SIGSTOP, rank)
    job.until(lambda: 1 - rank in job.statuses or job.poll(), HANG + 12)
    assert time.monotonic() - began < HANG + 9
    assert job.statuses[1 - rank] not in (0, 137), run.log()
    assert re.search(r"rank \d: nothing for \d+ s in [\w ]+ \(train.hang_seconds\)|Timed out waiting", run.log())
    job.signal(signal.SIGCONT, rank)  # its own end: nobody answers it any more
    assert job.wait(HANG + 15)[rank] != 0
    assert run.log().count("most recent call") >= 2, "the stacks of both"
    assert not job.left()
    run.finish("train.hang_seconds=600")
    require_same_end(run, undisturbed())


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_frozen_rank_ends_a_launched_job(new_run: New, undisturbed: New):
    run = new_run(2, f"train.hang_seconds={HANG}", "train.start_seconds=60")
    job = run.launch()
    job.until_step(12, 120)
    run.find_ranks(job)
    began = time.monotonic()
    job.signal(signal.SIGSTOP, 1)
    assert job.wait(HANG + 60)[0] != 0
    assert time.monotonic() - began < HANG + 45
    assert not job.left()
    run.finish("train.hang_seconds=600")
    require_same_end(run, undisturbed())


@pytest.mark.fault(15)
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_loader_worker_that_is_killed_ends_the_job_and_is_named(new_run: New, undisturbed: New, rank: int):
    run = new_run(2, "data.workers=2")
    job = run.start(fault="step:*:12-20:sleep=0.1")
    job.until_step(12)
    victim, began = job.workers(rank)[0], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    statuses = job.wait(15)
    assert time.monotonic() - began < 10
    assert statuses[rank] == 2, run.log()
    assert statuses[1 - rank] != 0
    assert f"[rank {rank}] error: data: a worker died: process {victim} was ended by signal 9 (Killed)" in run.log()
    assert not job.left()
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(16)
def test_a_worker_without_memory_ends_the_job_and_names_shard_and_key(new_run: New, tmp_path: Path):
    shards = toys.write_shards(tmp_path / "huge" / "shards", 40, shards=3)
    pixels = np.zeros((8000, 8000, 3), np.uint8)
    huge = [("huge.png", toys.encode(pixels)), ("huge.txt", b"a large picture")]
    toys.write_tar(shards / "00009.tar", huge)
    run = new_run(2, "data.workers=1", shards=shards)
    job = run.start(fault="worker:*:*:memory=120")
    statuses = job.wait(30)
    assert 2 in statuses, run.log()
    assert 0 not in statuses
    (line,) = [line for line in run.log().splitlines() if "error: " in line and "memory" in line]
    assert "00009.tar" in line
    assert "huge" in line
    assert not job.left()


@pytest.mark.fault(17)
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_frozen_loader_worker_ends_the_job_and_is_gone(new_run: New, undisturbed: New, world_size: int):
    run = new_run(world_size, "data.workers=1", f"train.hang_seconds={HANG}", "data.timeout_seconds=600")
    job = run.start(fault="step:*:12-20:sleep=0.1")
    job.until_step(12)
    (worker,) = job.workers(0)
    began = time.monotonic()
    os.kill(worker, signal.SIGSTOP)
    statuses = job.wait(HANG + 20)
    assert time.monotonic() - began < HANG + 12
    assert statuses[0] == 70, run.log()
    assert 0 not in statuses
    assert re.search(r"rank 0: nothing for \d+ s in waiting for data.*stacks follow", run.log())
    assert "most recent call first" in run.log()
    assert not job.left()
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
    run.finish("train.hang_seconds=600")
    require_same_end(run, undisturbed(world_size))


@pytest.mark.fault(17)
def test_a_frozen_loader_worker_is_named_with_what_it_was_at(new_run: New):
    run = new_run(1, "data.workers=1", "data.timeout_seconds=2")
    job = run.start(fault="step:*:12-20:sleep=0.1")
    job.until_step(12)
    os.kill(job.workers(0)[0], signal.SIGSTOP)
    assert job.wait(15) == [2], run.log()
    assert re.search(r"error: data: no sign of life from the readers for \d+ s \(reader 0: ", run.log())
    assert not job.left()


@pytest.mark.fault(37)
def test_a_slow_rank_is_named_and_changes_nothing(new_run: New, undisturbed: New):
    run = new_run()
    run.finish(fault="step:1:10-15:sleep=0.2")
    lines = [line for line in run.log().splitlines() if "is slow" in line]
    assert any(re.match(rf"step 1[0-5]: rank 1 \({re.escape(socket.gethostname())}\) is slow: ", one) for one in lines)
    require_same_end(run, undisturbed())
