"""The cache of whole shards."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contrastive.data import cache as cache_module
from contrastive.data.storage import ReadError, Storage, StorageOptions
from tests.faults.remote import CONTENT, QUICK, read, storage
from tests.faults.server import Fault, Site


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.tar"))


def test_a_shard_is_fetched_once_and_kept_for_the_next_run(web: Site, tmp_path: Path):
    for _ in range(2):
        found = storage(tmp_path, "cache")
        for offset in range(0, 2_000_000, 250_000):
            assert read(found, f"{web.url}/a.tar", offset, 1000) == CONTENT[offset : offset + 1000]
    assert web.starts("/a.tar") == [0]
    assert [path.stat().st_size for path in entries(tmp_path)] == [len(CONTENT)]


def _fetch(options: StorageOptions, url: str, barrier: Any, answers: Any) -> None:
    barrier.wait()
    answers.put(Storage(options).read(url, 1000, 10, len(CONTENT)) == CONTENT[1000:1010])


def test_processes_that_want_one_shard_fetch_it_once(web: Site, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    options = replace(QUICK, cache=tmp_path / "cache")
    web.always["/a.tar"] = Fault(after=10_000, stall=0.2)
    ranks = [context.Process(target=_fetch, args=(options, f"{web.url}/a.tar", barrier, answers)) for _ in range(3)]
    for process in ranks:
        process.start()
    assert [answers.get(timeout=20) for _ in ranks] == [True] * 3
    for process in ranks:
        process.join(5)
    assert len(web.starts("/a.tar")) == 1


def test_the_cache_stays_within_its_bound_and_drops_the_oldest(web: Site, tmp_path: Path):
    found = storage(tmp_path, "cache", cache_bytes=4_500_000)
    for number in range(4):
        web.files[f"/{number}.tar"] = CONTENT
        assert read(found, f"{web.url}/{number}.tar", 0, 10) == CONTENT[:10]
        time.sleep(0.02)
    assert len(entries(tmp_path)) == 2
    assert read(found, f"{web.url}/0.tar", 100, 10) == CONTENT[100:110]  # its file is open still, or fetched again


def test_a_fetch_that_was_killed_goes_on_where_it_was(web: Site, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    web.faults["/a.tar"] = [Fault(), Fault(after=900_000, stall=30)]
    options = replace(QUICK, cache=tmp_path / "cache", stall_seconds=20.0)
    process = context.Process(
        target=_fetch, args=(options, f"{web.url}/a.tar", context.Barrier(1), context.Queue()), daemon=True
    )
    process.start()
    deadline = time.monotonic() + 10
    while not any(path.stat().st_size > 500_000 for path in (tmp_path / "cache").glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert read(storage(tmp_path, "cache"), f"{web.url}/a.tar", 0, 2_000_000) == CONTENT
    begin = web.starts("/a.tar")
    assert begin[0] == 0
    assert begin[1] > 500_000


def test_a_damaged_entry_is_fetched_again(web: Site, tmp_path: Path):
    assert read(storage(tmp_path, "cache"), f"{web.url}/a.tar", 0, 10) == CONTENT[:10]
    (entry,) = entries(tmp_path)
    entry.write_bytes(CONTENT[:1000])
    assert read(storage(tmp_path, "cache"), f"{web.url}/a.tar", 5000, 10) == CONTENT[5000:5010]


def test_a_full_disk_turns_to_ranges_with_a_warning(
    web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(self: Any, part: Path, fetch: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cache_module.ShardCache, "_fill", full)
    found = storage(tmp_path, "cache")
    with caplog.at_level("WARNING", "contrastive"):
        for offset in (0, 1_000_000):
            assert read(found, f"{web.url}/a.tar", offset, 10) == CONTENT[offset : offset + 10]
    assert len([m for m in caplog.messages if "No space left on device; shards are read in ranges" in m]) == 1
    with pytest.raises(ReadError, match="cannot hold it: No space left on device; free some space"):
        found.read("pipe:echo x", 0, 1)
