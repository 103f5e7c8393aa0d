import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive import processes
from contrastive.processes import STOP_SIGNALS, Workers, end_with_launcher, end_with_parent

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux does it")


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a forked process, in a group of its own; it ends with status 0, or 99 after an error."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.setpgid(0, 0)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def seconds_until(claim: Callable[[], bool], limit: float = 20.0) -> float:
    """Wait until a claim is true; return how long it took."""
    started = time.monotonic()
    while not claim():
        assert time.monotonic() - started < limit, "it never became true"
        time.sleep(0.01)
    return time.monotonic() - started


def status_of(child: int) -> int:
    """Wait for a child; return its exit status, negative where a signal ended it."""
    seconds_until(lambda: not is_alive(child))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sleeping(workers: Workers) -> processes._Worker:
    process = workers.Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    return process


def told(folder: Path, name: str) -> int:
    """Wait for a process to write down a number; return it."""
    path = folder / name
    seconds_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def tell(folder: Path, name: str, number: int) -> None:
    (folder / name).write_text(f"{number}\n")


def test_workers_do_not_obey_what_stops_a_run():
    worker = sleeping(Workers())
    for number in STOP_SIGNALS:
        os.kill(worker.pid, number)
    time.sleep(0.2)
    assert worker.is_alive()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])  # this process goes on to hear them
    worker.kill()
    worker.join()


def test_workers_that_do_not_end_are_killed_after_one_patience_for_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.5)
    workers = Workers()
    found = [sleeping(workers) for _ in range(4)]
    for worker in found:
        os.kill(worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    for worker in found:
        worker.join(timeout=5)  # as torch does
    for worker in found:
        assert worker.is_alive()
        worker.terminate()
        worker.join(timeout=5)
        assert worker.exitcode == -signal.SIGKILL
    assert time.monotonic() - started < 4  # not 5 for each


def test_a_worker_that_ends_has_not_died_and_one_that_is_killed_has():
    workers = Workers()
    ended = workers.Process(target=int)
    failed = workers.Process(target=sys.exit, args=(3,))
    killed = sleeping(workers)
    ended.start()
    failed.start()
    killed.kill()
    for worker in (ended, failed, killed):
        worker.join(5)
    expected = {f"process {failed.pid} ended with status 3", f"process {killed.pid} was ended by signal 9 (Killed)"}
    assert set(workers.deaths()) == expected


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_are_gone_with_their_parent(tmp_path: Path, end: signal.Signals):
    def parent() -> None:
        tell(tmp_path, "worker", sleeping(Workers()).pid)
        time.sleep(60)

    child = forked(parent)
    worker = told(tmp_path, "worker")
    os.kill(child, end)
    assert status_of(child) == -end
    assert seconds_until(lambda: not is_alive(worker)) < 2


def test_a_process_whose_parent_has_gone_before_ends_at_once():
    child = forked(lambda: end_with_parent(signal.SIGTERM, parent=1))
    assert status_of(child) == -signal.SIGTERM


@pytest.mark.parametrize("is_launched", [True, False])
def test_a_rank_ends_with_its_launcher_and_a_process_without_one_goes_on(tmp_path: Path, is_launched: bool):
    def rank() -> None:
        os.environ.update({"TORCHELASTIC_RUN_ID": "none"} if is_launched else {})
        end_with_launcher()
        tell(tmp_path, "rank", os.getpid())
        time.sleep(60)

    def launcher() -> None:
        os.environ.pop("TORCHELASTIC_RUN_ID", None)
        forked(rank)
        time.sleep(60)

    child = forked(launcher)
    found = told(tmp_path, "rank")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if is_launched:
        assert seconds_until(lambda: not is_alive(found)) < 2
    else:
        time.sleep(0.5)
        assert is_alive(found)
        os.kill(found, signal.SIGKILL)


AT_EXIT = """
import os, signal, time
from contrastive.processes import Workers
worker = Workers().Process(target=time.sleep, args=(60,), daemon=True)
worker.start()
os.kill(worker.pid, signal.SIGSTOP)
"""


def test_a_stuck_worker_does_not_keep_the_interpreter_from_ending():
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", AT_EXIT], check=True, timeout=20, cwd=ROOT)
    assert time.monotonic() - started < 15


def test_a_forked_process_that_ends_leaves_the_workers_of_its_parent_alone():
    workers = Workers()
    worker = sleeping(workers)
    assert status_of(forked(workers._kill)) == 0
    assert worker.is_alive()
    worker.kill()
    worker.join()
