import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.runs import lifesigns
from contrastive.runs.lifesigns import LifeSigns
from tests.faults.runs import free_port
from tests.test_processes import forked, is_alive, seconds_until, status_of
from tests.toys import on_ranks

HOSTS = ["red", "green", "blue", "black"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifesigns, "PERIOD_SECONDS", 0.2)
    monkeypatch.setattr(lifesigns, "PATIENCE_SECONDS", 0.8)


def join(rank: int, size: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo", timeout=timedelta(seconds=3))


def exchanging(rank: int, size: int, port: int, folder: Path, fails: Callable[[], None] | None = None) -> None:
    """Add numbers with others for ever, and write down what ends it."""
    join(rank, size, port)
    descriptor = os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    try:
        with LifeSigns(HOSTS[:size]):
            for number in range(10**6):
                distributed.sum_over_ranks(torch.ones(100))
                (folder / f"{rank}.steps").write_text(str(number))
                if fails is not None and number == 20:
                    fails()
                time.sleep(0.01)
    except RunError as error:
        os.write(2, f"raised {error}".encode())


def started(size: int, folder: Path, lost: int, fails: Callable[[], None] | None) -> list[int]:
    port = free_port()
    return [
        forked(lambda rank=rank: exchanging(rank, size, port, folder, fails if rank == lost else None))
        for rank in range(size)
    ]


def end(pids: list[int]) -> None:
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize(("size", "lost"), [(2, 1), (4, 1), (4, 2)])
def test_all_that_are_left_end_and_name_the_rank_that_is_lost(tmp_path: Path, size: int, lost: int):
    pids = started(size, tmp_path, lost, lambda: os.kill(os.getpid(), signal.SIGKILL))
    try:
        assert status_of(pids[lost]) == -signal.SIGKILL
        began = time.monotonic()
        left = [rank for rank in range(size) if rank != lost]
        for rank in left:
            seconds_until(lambda rank=rank: not is_alive(pids[rank]), 12)
        assert time.monotonic() - began < 10
        for rank in left:
            said = (tmp_path / f"{rank}.err").read_text()
            assert f"rank {lost} on {HOSTS[lost]}: gives no sign of life any more" in said, (rank, said)
    finally:
        end(pids)


def test_a_rank_that_stands_still_is_named(tmp_path: Path):
    pids = started(2, tmp_path, 1, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    try:
        seconds_until(lambda: not is_alive(pids[0]), 30)
        said = (tmp_path / "0.err").read_text()
        assert "rank 1 on green: gives no sign of life any more (Timed out" in said
    finally:
        end(pids)


def test_where_rank_0_is_lost_with_the_store_it_is_named(tmp_path: Path):
    pids = started(2, tmp_path, 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
    try:
        seconds_until(lambda: not is_alive(pids[1]), 12)
        assert "rank 0 on red" in (tmp_path / "1.err").read_text()
    finally:
        end(pids)


def looking(folder: Path, port: int, rank: int) -> None:
    join(rank, 2, port)
    with LifeSigns(HOSTS[:2]) as signs:
        distributed.barrier()
        if rank == 0:
            (folder / "first").write_text(signs.silent())
        distributed.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        (folder / "second").write_text(signs.silent())
        os._exit(0)  # the other one never comes to the end


def test_who_is_silent_can_be_asked_for(tmp_path: Path):
    port = free_port()
    pids = [forked(lambda rank=rank: looking(tmp_path, port, rank)) for rank in range(2)]
    try:
        assert status_of(pids[0]) == 0
        assert (tmp_path / "first").read_text() == ""
        assert (tmp_path / "second").read_text() == "rank 1 on green: no sign of life"
    finally:
        end(pids)


def fails_of_itself() -> str:
    try:
        with LifeSigns(HOSTS[:2]):
            raise RuntimeError("out of memory")
    except RuntimeError as error:
        return type(error).__name__


def test_another_failure_is_left_as_it_is():
    assert on_ranks(fails_of_itself, 2) == ["RuntimeError"] * 2


def test_one_process_alone_starts_nothing():
    with LifeSigns(["red"]):
        assert not [thread for thread in threading.enumerate() if thread.name == "life signs"]
