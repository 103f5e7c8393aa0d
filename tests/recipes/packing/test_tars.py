"""Tars are what tarfile writes, and what everybody reads."""

import hashlib
import io
import os
import tarfile
import tempfile

import pytest
import webdataset

from contrastive.data.tar import RECORD, scan
from contrastive.recipes.packing.tars import TarWriter, header

MEMBERS = [("a.jpg", b"x" * 700), ("ünï/b.txt", b""), ("c" * 96 + ".txt", b"y" * 512), ("d" * 150 + ".json", b"{}")]


def written(members: list[tuple[str, bytes]]) -> tuple[bytes, TarWriter]:
    with tempfile.TemporaryFile() as file:
        tar = TarWriter(file)
        for member in members:
            tar.add([member])
        size = tar.close()
        file.seek(0)
        content = file.read()
        assert size == len(content)
        return content, tar


def test_tarfile_reads_what_was_written():
    content, _ = written(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
        assert {(one.mtime, one.uid, one.gid, one.mode, one.uname) for one in tar.getmembers()} == {
            (0, 0, 0, 0o644, "")
        }
    assert found == MEMBERS
    assert len(content) % RECORD == 0


def test_our_index_finds_every_member_and_no_damage():
    content, tar = written(MEMBERS)
    members, damage = scan(io.BytesIO(content), len(content))
    assert not damage
    assert [(one.name, content[one.offset : one.offset + one.size]) for one in members] == MEMBERS
    assert tar.members == members


@pytest.mark.parametrize("size", [0, 1, 511, 512, 123_456_789, (8 << 30) - 1])
def test_a_header_is_the_one_that_tarfile_writes(size: int):
    info = tarfile.TarInfo("some/name.jpg")
    info.size = size
    theirs = info.tobuf(tarfile.USTAR_FORMAT)
    ours = header("some/name.jpg", size)
    # tarfile writes zeros as text into the numbers of a device, which no file has
    assert ours[:148] == theirs[:148]
    assert tarfile.TarInfo.frombuf(ours, "utf-8", "strict").size == size


def test_a_member_over_8_gigabytes_has_a_header_of_pax():
    content = header("big.bin", 8 << 30)
    assert len(content) == 3 * 512
    assert b"size=8589934592" in content


def test_the_hash_is_that_of_the_file():
    content, tar = written([(f"{n}.bin", bytes([n]) * 1_000_000) for n in range(10)])
    assert tar.sha256.hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_write_that_ends_early_is_gone_on_with(monkeypatch: pytest.MonkeyPatch):
    members = [(f"{n}.bin", bytes([n]) * 300_000) for n in range(10)]
    whole, _ = written(members)
    first = os.write
    monkeypatch.setattr(os, "writev", lambda file, pieces: first(file, b"".join(pieces)[:1000]))
    monkeypatch.setattr(os, "write", lambda file, rest: first(file, rest[:100_000]))
    assert written(members)[0] == whole


def test_many_members_of_one_sample_are_written():
    members = [(f"a.{n}.txt", b"x" * 5000) for n in range(300)]
    with tempfile.TemporaryFile() as file:
        TarWriter(file).add(members)
        tar = TarWriter(file)
        tar.add(members)
        tar.close()


def test_webdataset_reads_it(tmp_path):
    content, _ = written([("a.jpg", b"1"), ("a.txt", b"2"), ("x/b.jpg", b"3")])
    (tmp_path / "0.tar").write_bytes(content)
    found = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert [{key: one[key] for key in one if key in ("__key__", "jpg", "txt")} for one in found] == [
        {"__key__": "a", "jpg": b"1", "txt": b"2"},
        {"__key__": "x/b", "jpg": b"3"},
    ]
