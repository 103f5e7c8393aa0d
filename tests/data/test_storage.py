"""Local shards: sizes that change, files that come and go, many of them open."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from contrastive.data import storage as module
from contrastive.data.storage import ReadError, Storage, StorageOptions

QUICK = StorageOptions(retries=3, backoff_seconds=0.001)
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def tar(tmp_path: Path) -> str:
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    return str(path)


def test_any_range_is_that_of_the_file(tar: str):
    found = Storage()
    for offset, size in ((0, 10240), (0, 0), (5, 1), (10239, 1), (300, 5000)):
        assert found.read(tar, offset, size, 10240) == CONTENT[offset : offset + size]
        assert found.read(tar, offset, size) == CONTENT[offset : offset + size]
    assert found.stat(tar).size == 10240
    with found.open(tar) as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    ("offset", "size", "total", "reason", "message"),
    [
        (10000, 300, None, "short", "240 of 300 bytes at 10000; was the shard changed while training?"),
        (0, 10, 10752, "changed", "has 10240 bytes, its index says 10752: the shard was changed"),
    ],
)
def test_what_is_not_there_is_said(tar: str, offset: int, size: int, total: int | None, reason: str, message: str):
    with pytest.raises(ReadError) as caught:
        Storage(QUICK).read(tar, offset, size, total)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{tar}: ")
    assert message in str(caught.value)


def test_a_file_that_a_network_disk_forgets_for_a_moment_is_asked_for_again(tar: str, monkeypatch: pytest.MonkeyPatch):
    real, failures = os.pread, [errno.EIO, errno.ESTALE, errno.ENOENT]

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if failures:
            raise OSError(failures.pop(), "gone for a moment")
        return real(descriptor, size, offset)

    monkeypatch.setattr(module.os, "pread", pread)
    assert Storage(QUICK).read(tar, 7, 9, 10240) == CONTENT[7:16]
    assert not failures


def test_an_error_that_does_not_pass_is_not_tried_again(tar: str, monkeypatch: pytest.MonkeyPatch):
    tries: list[int] = []

    def pread(*_: Any) -> bytes:
        tries.append(1)
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.os, "pread", pread)
    with pytest.raises(ReadError, match="Permission denied") as caught:
        Storage(QUICK).read(tar, 0, 1, 10240)
    assert (len(tries), caught.value.reason) == (1, "failed")


def test_reads_that_the_system_cuts_short_are_put_together(tar: str, monkeypatch: pytest.MonkeyPatch):
    real = os.pread
    monkeypatch.setattr(module.os, "pread", lambda descriptor, size, at: real(descriptor, min(size, 100), at))
    assert Storage().read(tar, 3, 1234, 10240) == CONTENT[3:1237]


def open_files(folder: Path) -> list[Path]:
    """Files of `folder` alone: what else this process has open comes and goes with the garbage collector."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            opened.append(descriptor.readlink())
        except FileNotFoundError:  # the descriptor of this listing itself
            continue
    return sorted(path for path in opened if path.parent == folder)


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "OPEN_FILES", 3)
    found = Storage()
    for number in range(12):
        (tmp_path / f"{number}.tar").write_bytes(CONTENT)
        assert found.read(str(tmp_path / f"{number}.tar"), 0, 4, 10240) == CONTENT[:4]
    assert [path.name for path in open_files(tmp_path)] == ["10.tar", "11.tar", "9.tar"]
    found.close()
    assert open_files(tmp_path) == []


def test_a_forked_process_opens_its_own_files(tar: str):
    found = Storage()
    found.read(tar, 0, 1, 10240)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = set(found._files)
            content = found.read(tar, 500, 8, 10240)
            os.write(writer, content)
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reader, 8) == CONTENT[500:508]
    os.close(reader)
    os.close(writer)


def test_it_travels_without_its_files(tar: str):
    found = Storage(QUICK)
    found.read(tar, 0, 1, 10240)
    other = pickle.loads(pickle.dumps(found))
    assert other.options == QUICK
    assert not other._files
    assert other.read(tar, 1, 2, 10240) == CONTENT[1:3]


def test_what_is_waited_for_is_told(tar: str):
    told: list[tuple[str, str]] = []
    Storage(watch=lambda stage, where: told.append((stage, where))).read(tar, 0, 1, 10240)
    assert told == [("read", tar), ("open", tar), ("", "")]
