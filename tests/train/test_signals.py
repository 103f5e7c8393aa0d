import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from contrastive.processes import STOP_SIGNALS
from contrastive.train import signals
from contrastive.train.signals import StopRequest
from tests.test_processes import forked, seconds_until, status_of, tell, told


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "DEBOUNCE_SECONDS", 0.3)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOP_SIGNALS]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_nothing_else_happens(number: signal.Signals):
    with StopRequest() as stop:
        assert stop.signal is None
        assert stop.since is None
        before = time.monotonic()
        os.kill(os.getpid(), number)
        assert stop.signal is number
        assert before <= stop.since <= time.monotonic()


def test_the_handlers_and_the_wakeup_of_before_come_back():
    before, (reading, writing) = handlers(), socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno())
    with StopRequest():
        assert handlers() != before
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == writing.fileno()
    assert not [thread for thread in threading.enumerate() if thread.name == "stop signals"]
    reading.close()
    writing.close()


def test_ctrl_c_is_a_keyboard_interrupt_again_afterwards():
    with StopRequest():
        pass
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_main_process_says_what_came_and_what_will_happen(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "contrastive"), StopRequest():
        os.kill(os.getpid(), signal.SIGUSR1)
        seconds_until(lambda: bool(caplog.messages))
    assert caplog.messages == ["SIGUSR1: saving at the next step; once more to end now"]


def test_another_rank_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.WARNING, "contrastive"), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.signal, caplog.messages) == (signal.SIGTERM, [])


def test_signals_of_one_moment_are_one_request():
    with StopRequest() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.02)
    assert stop.signal is signal.SIGTERM


def trains_on(folder: Path) -> None:
    os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY), 2)
    with StopRequest():
        tell(folder, "entered", os.getpid())
        stuck, _ = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the main thread never hears them
        os.read(stuck, 1)


def test_a_second_signal_ends_the_process_at_once_whatever_its_main_thread_is_at(tmp_path: Path):
    child = forked(lambda: trains_on(tmp_path))
    told(tmp_path, "entered")
    os.kill(child, signal.SIGTERM)
    time.sleep(0.5)
    os.kill(child, signal.SIGINT)
    assert status_of(child) == 128 + signal.SIGINT
    assert (tmp_path / "stderr").read_text().splitlines()[-1] == "SIGINT again: ending now"


def test_a_second_signal_of_the_same_moment_does_not_end_the_process(tmp_path: Path):
    child = forked(lambda: trains_on(tmp_path))
    told(tmp_path, "entered")
    os.kill(child, signal.SIGTERM)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.4)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_another_thread_installs_nothing():
    found: list[object] = []

    def work() -> None:
        with StopRequest():
            found.extend(handlers())

    before, thread = handlers(), threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert found == before


def test_a_forked_process_has_the_handlers_of_before_and_its_signals_are_its_own():
    with StopRequest() as stop:
        child = forked(lambda: time.sleep(60))
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert status_of(child) == -signal.SIGTERM
        time.sleep(0.1)
        assert stop.signal is None


def test_leaving_does_not_wait_for_forked_processes():
    started = time.monotonic()
    with StopRequest():
        child = forked(lambda: time.sleep(60))
    assert time.monotonic() - started < 20
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
