import ctypes
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive.processes import Workers
from contrastive.train import watchdog
from contrastive.train.watchdog import STATUS, STEP, Watchdog
from tests.test_processes import forked, is_alive, seconds_until, status_of, tell, told


def said_by(folder: Path, work: Callable[[], object], status: int) -> str:
    """Run `work` in a process that ends with `status`; return what it wrote to stderr."""

    def child() -> None:
        os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY), 2)
        work()

    assert status_of(forked(child)) == status
    return (folder / "stderr").read_text()


def steps(dog: Watchdog, count: int) -> None:
    for step in range(1, count + 1):
        dog.beat(STEP, step)


def test_a_process_that_stands_still_is_ended_and_says_who_where_and_how_long(tmp_path: Path):
    def stand_still() -> None:
        os.environ["RANK"] = "1"
        with Watchdog(0.5, 60, describe=lambda: "reader 0: open a.tar") as dog:
            steps(dog, 812)
            time.sleep(60)

    said = said_by(tmp_path, stand_still, STATUS)
    expected = (
        r"rank 1: nothing for \d s in step 812 \(train.hang_seconds\); stacks follow\nrank 1: reader 0: open a.tar\n"
    )
    assert re.match(expected, said)
    assert "in stand_still" in said
    assert "in _watch" in said  # all threads, not only the main one


def test_beats_keep_a_process_alive():
    with Watchdog(0.3, 0.3) as dog:
        for step in range(20):
            dog.beat(STEP, step)
            time.sleep(0.05)


def test_the_start_may_take_longer_until_the_second_step_begins(tmp_path: Path):
    with Watchdog(0.2, 60) as dog:
        dog.beat("compiling")
        dog.beat(STEP, 1)
        time.sleep(0.6)

    def stand_still() -> None:
        with Watchdog(0.2, 60) as dog:
            steps(dog, 2)
            dog.beat("saving")
            time.sleep(60)

    assert "in saving (train.hang_seconds); stacks" in said_by(tmp_path, stand_still, STATUS)


def test_the_start_is_watched_too(tmp_path: Path):
    def stand_still() -> None:
        with Watchdog(0.1, 0.3):
            time.sleep(60)

    assert "in the start (train.hang_seconds)" in said_by(tmp_path, stand_still, STATUS)


def test_code_that_keeps_the_interpreter_to_itself_is_ended_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.5)

    def freeze() -> None:
        with Watchdog(0.3, 0.3):
            time.sleep(0.1)
            ctypes.PyDLL(None).sleep(60)  # unlike CDLL, it holds the lock of the interpreter

    said = said_by(tmp_path, freeze, 1)
    assert said.startswith("Timeout (0:00:00.8")
    assert "in freeze" in said


def test_a_process_that_was_stopped_for_a_while_goes_on(tmp_path: Path):
    def train() -> None:
        with Watchdog(1.0, 1.0) as dog:
            tell(tmp_path, "begun", os.getpid())
            for _ in range(20):
                dog.beat(STEP)
                time.sleep(0.1)

    child = forked(train)
    told(tmp_path, "begun")
    os.kill(child, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(child, signal.SIGCONT)
    assert status_of(child) == 0


def test_its_workers_end_with_it(tmp_path: Path):
    def stand_still() -> None:
        worker = Workers().Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        tell(tmp_path, "worker", worker.pid)
        with Watchdog(0.2, 0.2):
            time.sleep(60)

    said_by(tmp_path, stand_still, STATUS)
    assert seconds_until(lambda: not is_alive(told(tmp_path, "worker"))) < 2


def test_none_watches_nothing():
    with Watchdog(None, 0.1) as dog:
        dog.beat(STEP)
        time.sleep(0.3)


def test_nothing_is_armed_after_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.0)
    with Watchdog(0.3, 0.3):
        time.sleep(0.1)
    time.sleep(0.6)  # this process would have ended


def test_a_beat_costs_less_than_the_step_can_feel():
    with Watchdog(60, 60) as dog:
        started = time.perf_counter()
        for step in range(10_000):
            dog.beat(STEP, step)
        assert (time.perf_counter() - started) / 10_000 < 200e-6
