"""Shards behind a server that stalls, cuts and answers with errors: the same bytes, in bounded time, or one line."""

import gzip
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from contrastive.data.loader import Loader
from contrastive.data.quarantine import Quarantine
from contrastive.data.storage import ReadError
from contrastive.errors import DataError
from tests import toys
from tests.data.toys import rows, settings
from tests.faults.remote import CONTENT, read, storage
from tests.faults.server import Fault, Site

MODES = ["ranges", "cache"]


PASSING = {
    "nothing": [],
    "a stall at once": [Fault(after=0, stall=30)],
    "a stall in the middle": [Fault(after=100_000, stall=30)] * 3,
    "a cut in the middle": [Fault(after=100_000, cut=True)] * 5,
    "a cut at once": [Fault(after=0, cut=True)] * 3,
    "errors of the server": [Fault(500), Fault(503), Fault(502)],
    "too many requests": [Fault(429, retry_after="0"), Fault(429, retry_after="nonsense")],
    "a server without ranges": [Fault(ignores_range=True)],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
def test_what_passes_is_waited_for(web: Site, tmp_path: Path, mode: str, faults: list[Fault]):
    found = storage(tmp_path, mode)
    found.stat(f"{web.url}/a.tar")
    web.faults["/a.tar"] = list(faults)
    assert read(found, f"{web.url}/a.tar") == CONTENT[500_000:1_200_000]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_broken_transfer_goes_on_at_the_byte_where_it_broke_off(web: Site, tmp_path: Path, mode: str, kind: str):
    found = storage(tmp_path, mode, chunk_bytes=1 << 21)
    found.stat(f"{web.url}/a.tar")
    fault = Fault(after=777_777, cut=True) if kind == "cut" else Fault(after=777_777, stall=30)
    if mode == "cache":
        web.faults["/a.tar"] = [Fault()]  # the cache asks for the size first
    web.faults.setdefault("/a.tar", []).append(fault)
    assert read(found, f"{web.url}/a.tar", 0, 2_000_000) == CONTENT
    assert web.starts("/a.tar") == [0, 777_777]


LASTING = {
    "missing": (Fault(404), "missing", "does not exist"),
    "forbidden": (Fault(403), "refused", "access is refused"),
    "errors without end": (Fault(503), "failed", r"status 503 \(4 tries in"),
    "stalls without end": (Fault(after=0, stall=30), "stalled", r"for 0\.4 s \(4 tries in"),
    "cuts without end": (Fault(after=0, cut=True), "", r"\(4 tries in"),
    "another content": (Fault(etag='"two"'), "changed", "was replaced while it was read"),
    "a shorter file": (Fault(content=CONTENT[:400_000]), "changed", "shorter than its index says|bytes"),
}


@pytest.mark.parametrize(("fault", "reason", "message"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_an_error_in_bounded_time(web: Site, tmp_path: Path, fault: Fault, reason: str, message: str):
    found = storage(tmp_path, "ranges")
    assert read(found, f"{web.url}/a.tar", 0, 10) == CONTENT[:10]
    web.always["/a.tar"] = fault
    started = time.monotonic()
    with pytest.raises(ReadError, match=message) as caught:
        read(found, f"{web.url}/a.tar", 600_000, 10)
    assert time.monotonic() - started < 10
    assert reason in ("", caught.value.reason)
    assert str(caught.value).startswith(f"{web.url}/a.tar: ")
    assert "\n" not in str(caught.value)
    web.always.clear()
    if reason != "changed":  # what has passed after all is read
        assert read(found, f"{web.url}/a.tar", 600_000, 10) == CONTENT[600_000:600_010]


def test_a_server_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(ReadError, match=r"Connection refused \(4 tries"):
        read(storage(tmp_path, "ranges"), "http://127.0.0.1:9/a.tar")


def test_a_dead_server_does_not_stop_another_process_from_being_pickled(web: Site, tmp_path: Path):
    import pickle

    found = storage(tmp_path, "ranges")
    assert read(found, f"{web.url}/a.tar", 0, 99) == CONTENT[:99]
    assert read(pickle.loads(pickle.dumps(found)), f"{web.url}/a.tar", 5, 9) == CONTENT[5:14]


def test_any_scheme_of_fsspec_is_read(tmp_path: Path):
    fsspec.filesystem("memory").pipe("/remote/a.tar", CONTENT)
    found = storage(tmp_path, "ranges")
    assert found.stat("memory://remote/a.tar").size == len(CONTENT)
    assert read(found, "memory://remote/a.tar") == CONTENT[500_000:1_200_000]
    with pytest.raises(ReadError, match="does not exist") as caught:
        found.stat("memory://remote/none.tar")
    assert caught.value.reason == "missing"


# The stream over a server


def dataset(web: Site, folder: Path) -> list[str]:
    toys.write_shards(folder, 40, shards=5)
    paths = sorted(folder.glob("*.tar"))
    web.files.update({f"/{path.name}": path.read_bytes() for path in paths})
    return [f"{web.url}/{path.name}" for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", ["ranges", "cache", "packed"])
def test_batches_over_a_bad_line_are_those_of_the_files(web: Site, tmp_path: Path, mode: str, workers: int):
    urls = dataset(web, tmp_path / "files")
    if mode == "packed":
        web.files.update({f"{name}.gz": gzip.compress(data) for name, data in web.files.items() if name[1] == "0"})
        urls = [f"{url}.gz" for url in urls]
    options: dict[str, Any] = {"lanes": 2, "window": 5, "global_batch_size": 8, "stall_seconds": 0.4}
    local = settings(sorted(map(str, (tmp_path / "files").glob("*.tar"))), workers=0, **options)
    cache = None if mode == "ranges" else str(tmp_path / "cache")
    remote = settings(urls, workers=workers, cache=cache, **options)
    loader = Loader(rows(remote), workers=workers)
    web.faults = {
        path: [Fault(after=2000, cut=True), Fault(503), Fault(after=4000, stall=30), Fault(500, retry_after="0")]
        for path in web.files
    }
    expected = list(Loader(rows(local)).batches(0, 7))
    for found, plain in zip(loader.batches(0, 7), expected, strict=True):
        assert all(np.array_equal(found[name], plain[name]) for name in plain)


def test_a_shard_that_vanishes_from_the_server_ends_the_run_or_is_stood_in_for(web: Site, tmp_path: Path):
    urls = dataset(web, tmp_path / "files")
    for policy in ("fail", "substitute"):
        data = settings(urls, damaged_shards=policy, retries=1, global_batch_size=40)
        quarantine = Quarantine(max_share=1.0)
        loader = Loader(rows(data), quarantine=quarantine)
        kept = web.files.pop("/00002.tar")
        if policy == "fail":
            with pytest.raises(DataError, match=r"00002\.tar: does not exist \(status 404\)"):
                list(loader.batches(0, 1))
        else:
            (batch,) = loader.batches(0, 1)
            assert len(batch["index"]) == 40
            assert quarantine.reasons["shard: missing"] >= 8
        web.files["/00002.tar"] = kept
