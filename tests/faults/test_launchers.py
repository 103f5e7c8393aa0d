"""Launchers that die or start something else than was asked for, ports that are taken, two jobs in one directory."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import Run
from tests.faults.test_killed import require_same_end

New = Callable[..., Run]
ROOT = Path(__file__).parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.mark.fault(9)
def test_ranks_are_gone_when_their_launcher_is_killed(new_run: New, undisturbed: New):
    run = new_run(2, "data.workers=1")
    job = run.launch(fault="step:*:12-40:sleep=0.2")
    job.until_step(12, 120)
    run.find_ranks(job)
    job.look()
    assert job.launcher is not None
    os.kill(job.launcher.pid, signal.SIGKILL)
    assert job.wait(5) == [137]
    assert not job.left(2)
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(10)
def test_a_second_job_in_the_same_directory_is_refused_and_told_who_holds_it(new_run: New, undisturbed: New):
    run = new_run()
    first = run.start(fault="step:*:12:sleep=4")
    first.until_step(11)
    second, began = run.start(), time.monotonic()
    assert second.wait_for_one(10) == 2, run.log()
    assert time.monotonic() - began < 8
    assert f"is in use by process {first.pids[0]} on host {socket.gethostname()} since " in run.log()
    assert set(first.wait()) == {0}
    require_same_end(run, undisturbed())


@pytest.mark.fault(10)
def test_a_killed_job_does_not_keep_its_directory(new_run: New, undisturbed: New):
    run = new_run(2, "data.workers=1")
    job = run.start()
    job.until_step(12)
    job.kill()
    run.finish()
    require_same_end(run, undisturbed())


@pytest.mark.fault(39)
def test_a_port_that_is_taken_is_a_clear_error_at_once(new_run: New):
    run = new_run()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        job, began = run.start(port=port), time.monotonic()
        assert job.wait_for_one(15) != 0
        assert time.monotonic() - began < 10
    assert "EADDRINUSE" in run.log() or "address already in use" in run.log()
    assert str(port) in run.log()
    assert not run.saved()
    run.finish()


@pytest.mark.slow
@pytest.mark.fault(39)
def test_a_launcher_whose_port_is_taken_takes_another(new_run: New):
    run = new_run()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 29500))  # torchrun's own choice
        taken.listen()
        job = run.launch()
        assert job.wait(120) == [0], run.log()
    assert run.facts()["world_size"] == 2


@pytest.mark.slow  # tests/distributed/test_training.py has a faster one
@pytest.mark.fault(40)
def test_the_documented_launch_starts_as_many_processes_as_it_says(new_run: New, undisturbed: New):
    run = new_run()
    command = [*ACCELERATE, "--config_file", str(ROOT / "configs" / "launch" / "cpu2.yaml"), "--main_process_port", "0"]
    assert run.launch(command=command).wait(120) == [0], run.log()
    assert "world_size=2 device=cpu" in run.log()
    assert run.facts()["world_size"] == 2
    require_same_end(run, undisturbed())


@pytest.mark.slow
@pytest.mark.fault(40)
def test_a_launch_that_silently_starts_one_process_is_refused(new_run: New):
    run = new_run()
    assert run.launch(command=[*ACCELERATE, "--cpu", "--num_processes", "2"]).wait(120) != [0]
    assert "train.world_size: 2 processes asked for, 1 started" in run.log()
    assert not run.saved()
