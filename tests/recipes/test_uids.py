"""DataComp's lists of uids."""

import json
from pathlib import Path

import numpy as np
import pytest

from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.recipes.uids import UidsOf, read_uids, uid_of, write_uids
from contrastive.settings import DataConfig
from tests import toys

UIDS = ["ff" * 16, "139e4a9b22a614771f06c700a8ebe150", "00" * 15 + "01", "6e356964a967af455c8016b75d691200"]


def as_datacomp_does(uids: list[str]) -> np.ndarray:
    """The lines of its README."""
    pairs = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    pairs.sort()
    return pairs


def test_a_list_of_datacomp_is_read(tmp_path: Path):
    np.save(tmp_path / "a.npy", as_datacomp_does(UIDS))
    names = read_uids(tmp_path / "a.npy")
    assert [name.ljust(16, b"\0").hex() for name in names.tolist()] == sorted(UIDS)


def test_a_list_is_written_as_datacomp_does(tmp_path: Path):
    names = np.array([bytes.fromhex(uid) for uid in [*UIDS, UIDS[0]]], "S16")
    write_uids(tmp_path / "a.npy", names)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == as_datacomp_does(UIDS).tolist()


@pytest.mark.parametrize("content", [np.zeros(3, np.int64), np.zeros((2, 2), "u8,u8"), np.array(["a"])])
def test_another_array_is_refused(tmp_path: Path, content: np.ndarray):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(DataError, match=r'a.npy: holds .*; a list of uids is one row of dtype "u8,u8"'):
        read_uids(tmp_path / "a.npy")


def test_what_is_no_array_is_refused(tmp_path: Path):
    (tmp_path / "a.npy").write_text("139e4a9b22a614771f06c700a8ebe150")
    with pytest.raises(DataError, match=r"a.npy: cannot be read"):
        read_uids(tmp_path / "a.npy")


@pytest.mark.parametrize("fields", [{}, {"uid": None}, {"uid": "12"}, {"uid": "x" * 32}, {"uid": 12}])
def test_what_is_no_uid_is_none(fields: dict[str, object]):
    assert uid_of(fields) is None


def test_uids_are_read_from_the_json_of_samples(tmp_path: Path):
    fields = [{"uid": UIDS[0]}, {"uid": UIDS[1].upper()}, {}, {"uid": "?"}]
    members = [
        member
        for n, one in enumerate(fields)
        for member in [(f"{n}.png", b"x"), (f"{n}.txt", b"y"), (f"{n}.json", json.dumps(one).encode())]
    ]
    members += [("9.png", b"x"), ("9.txt", b"y"), ("a.png", b"x"), ("a.txt", b"y"), ("a.json", b"{")]
    toys.write_tar(tmp_path / "0.tar", members)
    storage = Storage()
    names, held = UidsOf(open_pool(DataConfig(train=str(tmp_path)), storage), storage)((0, 6))
    assert held.tolist() == [True, True, False, False, False, False]
    assert [name.hex() for name in names[:2].tolist()] == UIDS[:2]
