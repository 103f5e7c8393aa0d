import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from contrastive.errors import RunError
from contrastive.runs import lock
from contrastive.runs.lock import HOLDER, RunLock
from tests.test_processes import forked, seconds_until, status_of, tell, told


def hold(directory: Path, folder: Path) -> None:
    with RunLock(directory):
        tell(folder, "held", os.getpid())
        time.sleep(60)


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_job_is_refused_at_once_and_told_who_holds_the_directory(tmp_path: Path):
    child = forked(lambda: hold(tmp_path / "run", tmp_path))
    told(tmp_path, "held")
    started = time.monotonic()
    with pytest.raises(RunError) as caught, RunLock(tmp_path / "run"):
        pass
    assert time.monotonic() - started < 1
    host, now = re.escape(socket.gethostname()), r"\d{4}-\d\d-\d\d \d\d:\d\d"
    who = rf"in use by process {child} on host {host} since {now} \(.*pytest.*\)"
    assert re.fullmatch(
        rf"run\.directory: .*/run is {who}; wait for it, or choose another directory", str(caught.value)
    )
    end(child)


def test_the_directory_is_free_when_its_holder_was_killed(tmp_path: Path):
    child = forked(lambda: hold(tmp_path, tmp_path))
    told(tmp_path, "held")
    end(child)
    assert (tmp_path / HOLDER).exists()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()


def inherit(directory: Path, folder: Path, seconds: float) -> None:
    """Hold the lock as a process does whose loader workers outlive it: an inherited descriptor keeps a flock."""
    with RunLock(directory) as held:
        descriptor = os.dup(held._lock._context.lock_file_fd)

        def live_on() -> None:
            tell(folder, "held", descriptor)
            time.sleep(seconds)

        forked(live_on)
        time.sleep(60)


def test_children_of_a_killed_holder_are_waited_for(tmp_path: Path):
    child = forked(lambda: inherit(tmp_path, tmp_path, 1.0))
    told(tmp_path, "held")
    end(child)
    started = time.monotonic()
    with RunLock(tmp_path):
        assert 0.3 < time.monotonic() - started < 3


def test_children_of_a_killed_holder_that_stay_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.3)
    child = forked(lambda: inherit(tmp_path, tmp_path, 3.0))
    told(tmp_path, "held")
    end(child)
    with pytest.raises(RunError, match=rf"by process {child} .*, which has ended and left others behind; "):
        RunLock(tmp_path).__enter__()


def test_an_end_frees_the_directory_though_children_live_on(tmp_path: Path):
    def work() -> None:
        with RunLock(tmp_path) as held:
            os.dup(held._lock._context.lock_file_fd)
            tell(tmp_path, "child", forked(lambda: time.sleep(60)))

    assert status_of(forked(work)) == 0
    with RunLock(tmp_path):
        pass
    os.kill(told(tmp_path, "child"), signal.SIGKILL)


def test_a_description_without_the_lock_means_nothing(tmp_path: Path):
    (tmp_path / HOLDER).write_text('{"pid": 1, "host": "elsewhere", "since": "ever", "command": "x"}')
    with RunLock(tmp_path):
        pass
    assert not (tmp_path / HOLDER).exists()


def test_a_holder_that_nobody_can_name_is_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.3)
    child = forked(lambda: hold(tmp_path, tmp_path))
    told(tmp_path, "held")
    (tmp_path / HOLDER).write_text("{")
    with pytest.raises(RunError, match="is in use by another process; wait"):
        RunLock(tmp_path).__enter__()
    end(child)


def test_a_missing_directory_is_made(tmp_path: Path):
    with RunLock(tmp_path / "runs" / "x"):
        assert (tmp_path / "runs" / "x").is_dir()


def test_one_process_can_take_it_again(tmp_path: Path):
    for _ in range(2):
        with RunLock(tmp_path):
            pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run\.directory: .*/file/run cannot be written: Not a directory"):
        RunLock(tmp_path / "file" / "run").__enter__()


def test_a_read_only_directory_is_refused(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    answer = tmp_path / "answer"
    answer.write_text("")
    answer.chmod(0o666)
    tmp_path.chmod(0o755)

    def work() -> None:
        os.chdir(tmp_path)
        with answer.open("w") as file:
            if os.getuid() == 0:
                os.setuid(65534)  # root may write everywhere
            try:
                RunLock(Path("run")).__enter__()
            except RunError as error:
                file.write(str(error))

    assert status_of(forked(work)) == 0
    assert answer.read_text() == "run.directory: run cannot be written: Permission denied"


def test_a_run_directory_that_vanishes_does_not_hide_how_the_run_ended(tmp_path: Path):
    with RunLock(tmp_path / "run"):
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        (tmp_path / "run").rmdir()
    seconds_until(lambda: not (tmp_path / "run").exists())
