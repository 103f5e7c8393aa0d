import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from contrastive.data.watch import INTERRUPT, Watch
from contrastive.errors import DataError
from contrastive.train.signals import StopRequest


def test_a_quiet_reader_is_named_with_stage_and_place():
    watch = Watch(2, timeout_seconds=0.2)
    watch("read", "/data/7.tar")
    watch.reader = 1
    watch("decode", "/data/8.tar:k")
    watch("", "")
    watch.require_life(waited=100)
    time.sleep(0.25)
    watch.require_life(waited=0.1)  # it has not waited long
    with pytest.raises(DataError) as caught:
        watch.require_life(waited=100)
    assert "reader 0: read /data/7.tar; reader 1: waiting for work" in str(caught.value)
    assert "data.timeout_seconds" in str(caught.value)


def test_notes_are_seen_across_processes():
    watch = Watch(1, timeout_seconds=9)
    child = os.fork()
    if not child:
        watch("fetch", "x" * 5000)  # longer than a slot
        os._exit(0)
    os.waitpid(child, 0)
    assert watch.standing().startswith("reader 0: fetch xxxx")
    assert watch.idle_seconds() < 5


@pytest.mark.parametrize("stops", [nullcontext, StopRequest])
def test_a_read_that_never_returns_is_interrupted(tmp_path: Path, stops: Callable[[], AbstractContextManager[Any]]):
    os.mkfifo(tmp_path / "stuck.tar")
    watch = Watch(1, timeout_seconds=0.4)
    started = time.monotonic()

    def read() -> None:
        with watch.guard():
            watch("read", str(tmp_path / "stuck.tar"))
            os.open(tmp_path / "stuck.tar", os.O_RDONLY)  # nobody ever writes

    with pytest.raises(DataError, match=r"no sign of life .*reader 0: read .*stuck\.tar"), stops():
        read()
    assert time.monotonic() - started < 5


def test_work_that_goes_on_is_left_alone():
    watch = Watch(1, timeout_seconds=0.3)
    with watch.guard():
        for _ in range(12):
            watch("read", "x")
            time.sleep(0.05)


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt), Watch(1, timeout_seconds=60).guard():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_is_noted_and_interrupts_no_read():
    with StopRequest() as stop, Watch(1, timeout_seconds=60).guard():
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal is signal.SIGINT


def test_the_signal_is_whose_it_was_afterwards():
    before = signal.getsignal(INTERRUPT)
    with Watch(1, timeout_seconds=60).guard():
        assert signal.getsignal(INTERRUPT) is not before
    assert signal.getsignal(INTERRUPT) is before


def test_another_thread_is_not_interrupted():
    watch, seen = Watch(1, timeout_seconds=0.1), []

    def work() -> None:
        with watch.guard():
            time.sleep(0.3)
        seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert seen == [True]
