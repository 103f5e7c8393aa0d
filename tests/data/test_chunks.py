"""Ranges of URLs in memory."""

import time
from pathlib import Path

import numpy as np

from tests.faults.remote import CONTENT, QUICK, read, storage
from tests.faults.server import Fault, Site


def test_ranges_are_fetched_once_while_they_fit_and_memory_is_bounded(web: Site, tmp_path: Path):
    found = storage(tmp_path, "ranges")
    for offset in np.random.default_rng(0).permutation(np.arange(0, 1_400_000, 1000)).tolist():
        assert found.read(f"{web.url}/a.tar", offset, 1000, len(CONTENT)) == CONTENT[offset : offset + 1000]
    assert found.chunks.fetched_bytes == 1_500_000  # five chunks
    assert found.chunks.served_bytes == 1_400_000
    for offset in range(0, 2_000_000, 100_000):
        found.read(f"{web.url}/a.tar", offset, 1000, len(CONTENT))
    held = sum(len(chunk.content) for chunk in found.chunks._chunks.values())
    assert held <= QUICK.memory_bytes


def test_what_was_asked_for_ahead_is_there_when_it_is_read(web: Site, tmp_path: Path):
    found = storage(tmp_path, "ranges")
    found.prefetch(f"{web.url}/a.tar", 900_000, 10, len(CONTENT))
    deadline = time.monotonic() + 5
    while not found.chunks.fetched_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    web.always["/a.tar"] = Fault(500)
    assert read(found, f"{web.url}/a.tar", 900_000, 10) == CONTENT[900_000:900_010]
