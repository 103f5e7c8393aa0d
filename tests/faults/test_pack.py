"""Packing that is killed, or finds the disk full, at any moment: the same bytes in the end, and nothing before it."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import DataError
from contrastive.recipes.packing import shards
from tests.recipes.packing.sources import lasting, mixed, packed, write_images

COUNT, HOW = 24, {"shard_size": 5, "splits": {"val": 0.3}}
PACK = "import sys; from contrastive import cli; sys.exit(cli.main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return mixed(write_images(tmp_path_factory.mktemp("pack") / "images", COUNT), COUNT)


@pytest.fixture(scope="module", params=[0, None], ids=["shuffled", "in order"])
def seed(request: pytest.FixtureRequest) -> int | None:
    seed: int | None = request.param
    return seed


@pytest.fixture(scope="module")
def undisturbed(rows: list[Any], seed: int | None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    packed(rows, out, seed=seed, **HOW)
    return lasting(out)


def killed_at(moment: int, rows: list[Any], out: Path, processes: int, seed: int | None) -> int:
    """Pack in a process group of its own that kills itself at a touch of the disk; return how many there were."""
    context = multiprocessing.get_context("fork")
    touches = context.Value("q", 0, lock=False)  # a lock would be held by the dead
    process = context.Process(target=_packing, args=(moment, touches, rows, out, processes, seed))
    process.start()
    process.join(60)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        raise AssertionError("it hangs")
    assert process.exitcode == (-signal.SIGKILL if touches.value >= moment else 0)
    return int(touches.value)


def _packing(moment: int, touches: Any, rows: list[Any], out: Path, processes: int, seed: int | None) -> None:
    os.setsid()

    def touched(event: str, _: Any) -> None:
        if event.startswith(("open", "os.", "shutil.")) and event != "os.killpg":
            touches.value += 1
            if touches.value >= moment:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(touched)
    packed(rows, out, processes, seed=seed, **HOW)


@pytest.mark.parametrize("chance", [pytest.param(n, marks=[] if n < 5 else pytest.mark.slow) for n in range(40)])
def test_killed_at_a_random_moment_and_taken_up_it_is_as_if_nothing_had_been(
    rows: list[Any], tmp_path: Path, undisturbed: dict[str, bytes], seed: int | None, chance: int
):
    out = tmp_path / "out"
    touches = killed_at(1 << 60, rows, tmp_path / "measured", 1, seed)
    # Each fifth of the work has its turn: listing, shards, levelling, moving.
    low, high = touches * (chance % 5) // 5, touches * (chance % 5 + 1) // 5
    moments = random.Random(chance)
    for again in range(1 + chance % 3):
        killed_at(max(1, moments.randrange(low, high) // (again + 1)), rows, out, 1 + chance % 2, seed)
        assert not out.exists() or lasting(out) == undisturbed
    packed(rows, out, 1 + (chance + 1) % 2, seed=seed, **HOW)
    assert lasting(out) == undisturbed
    packed(rows, out, seed=seed, **HOW)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, None])
def test_killed_at_every_touch_of_the_disk(rows: list[Any], tmp_path: Path, seed: int | None):
    packed(rows, tmp_path / "whole", seed=seed, **HOW)
    whole = lasting(tmp_path / "whole")
    touches = killed_at(1 << 60, rows, tmp_path / "measured", 1, seed)
    for moment in range(1, touches + 1):
        killed_at(moment, rows, tmp_path / "out", 1, seed)
        packed(rows, tmp_path / "out", seed=seed, **HOW)
        assert lasting(tmp_path / "out") == whole, moment
        shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
def test_the_command_killed_five_times_ends_the_same(tmp_path: Path):
    images = write_images(tmp_path / "images", 400)
    words = ["data", "pack", str(images), "caption=name", "--shard-size", "4", "--processes", "2", "--size", "16"]
    command = [sys.executable, "-c", PACK, *words]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, timeout=120, capture_output=True)
    chance = random.Random(0)
    for _ in range(5):
        with subprocess.Popen([*command, "--out", str(tmp_path / "out")], start_new_session=True) as process:
            work = tmp_path / ".out.packing"
            while process.poll() is None and not work.exists():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        assert not (tmp_path / "out").exists(), "it was killed too late to prove anything"
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, timeout=120, capture_output=True)
    names = ("report.json", "report.html")  # hold the command line and the speed
    both = [{n: c for n, c in lasting(tmp_path / one).items() if n not in names} for one in ("whole", "out")]
    assert both[0] == both[1]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let no file become larger, as a full disk does (Python ignores SIGXFSZ)."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("size", [1000, 7000, 12_000])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_is_full_is_one_line_and_the_work_goes_on_later(
    rows: list[Any], tmp_path: Path, undisturbed: dict[str, bytes], seed: int | None, size: int, processes: int
):
    with no_file_larger_than(size), pytest.raises(DataError) as caught:
        packed(rows, tmp_path / "out", processes, seed=seed, **HOW)
    said = str(caught.value)
    assert f"{tmp_path}/.out.packing" in said
    assert "cannot be written: File too large (" in said
    assert "are free" in said
    assert said.endswith("make room, and run the command again: it goes on where it stopped")
    assert not (tmp_path / "out").exists()
    packed(rows, tmp_path / "out", processes, seed=seed, **HOW)
    assert lasting(tmp_path / "out") == undisturbed


def test_a_full_disk_says_how_much_is_needed(rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = shards.described
    count = iter(range(100))

    def full(*given: Any) -> dict[str, Any]:
        if next(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*given)

    monkeypatch.setattr(shards, "described", full)
    with pytest.raises(DataError, match=r"No space left on device \(.* are free, about [\d.,]+ kB are needed\)"):
        packed(rows, tmp_path / "out", **HOW)
