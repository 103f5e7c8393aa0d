"""The table of a tar's samples."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from contrastive.data import index
from contrastive.data.index import Selection
from contrastive.data.tar import Member, scan
from tests import toys


def members_of(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return scan(file, path.stat().st_size)[0]


def table(tmp_path: Path, members: list[tuple[str, bytes]]) -> np.ndarray:
    return index.build(members_of(toys.write_tar(tmp_path / "a.tar", members)))[0]


MIXED = [
    ("a.jpg", b"1"), ("a.txt", b"22"), ("b.txt", b"333"), ("c.jpg", b""), ("c.txt", b"4"), ("d.jpg", b"5"),
    ("d.txt", b"6"), ("d.cls", b"7"),
]  # fmt: skip


def test_a_row_says_where_each_member_lies(tmp_path: Path):
    found = table(tmp_path, MIXED)
    content = (tmp_path / "a.tar").read_bytes()
    assert [index.key_of(found, row) for row in range(4)] == ["a", "b", "c", "d"]
    held = [
        {name: content[offset : offset + size] for name, (offset, size) in index.members_of(found, row).items()}
        for row in range(4)
    ]
    expected: dict[str, dict[str, bytes]] = {}
    for name, data in MIXED:
        if data:
            expected.setdefault(name[0], {})[name[2:]] = data
    assert held == list(expected.values())


def test_patterns_count_rows_by_what_they_hold(tmp_path: Path):
    found = table(tmp_path, MIXED)
    assert index.patterns(found) == {("jpg", "txt"): 1, ("txt",): 1, ("!jpg", "txt"): 1, ("cls", "jpg", "txt"): 1}
    assert index.patterns(found, [1, 3]) == {("jpg", "txt"): 1, ("!jpg", "txt"): 1}
    assert index.patterns(index.build([])[0]) == {}


def test_a_selection_says_which_rows_are_usable_and_why_not(tmp_path: Path):
    found, wanted = table(tmp_path, MIXED), Selection(("png", "jpg"), ("txt",))
    assert wanted.usable(found).tolist() == [True, False, False, True]
    reasons = {pattern: wanted.lacks(pattern) for pattern in index.patterns(found)}
    assert reasons[("jpg", "txt")] is None
    assert reasons[("txt",)] == "no image"
    assert reasons[("!jpg", "txt")] == "zero bytes"
    assert wanted.lacks(("jpg",)) == "no caption"


def test_a_table_is_the_same_after_a_round_trip_and_its_digest_tells_others_apart(tmp_path: Path):
    found = table(tmp_path, [*MIXED, ("é.jpg", b"x"), ("é.txt", b"y"), ("e.übersicht", b"z")])
    index.save(tmp_path / "t.npy", found)
    again = index.load(tmp_path / "t.npy")
    assert type(again) is np.ndarray
    assert again.dtype == found.dtype
    assert again.tobytes() == found.tobytes()
    assert index.digest(again) == index.digest(found)
    assert not again.flags.writeable
    assert len({index.digest(found), index.digest(found[:-1]), index.digest(table(tmp_path, MIXED))}) == 3


def test_a_file_that_is_no_table_is_refused_and_nothing_of_it_is_run(tmp_path: Path):
    np.save(tmp_path / "other.npy", np.arange(3))
    with pytest.raises(ValueError, match="is no index"):
        index.load(tmp_path / "other.npy")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="pickle"):
        index.load(tmp_path / "pickle.npy")


def test_an_old_python_that_stumbles_over_a_header_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index.save(tmp_path / "t.npy", table(tmp_path, MIXED))
    real, stumbles = np.load, [1, 1]

    def load(*arguments: object, **options: object) -> object:
        if stumbles:
            stumbles.pop()
            raise SystemError("AST constructor recursion depth mismatch (before=198, after=217)")
        return real(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(index.np, "load", load)
    assert len(index.load(tmp_path / "t.npy")) == 4
    stumbles += [1, 1, 1]
    with pytest.raises(SystemError):
        index.load(tmp_path / "t.npy")


def test_the_rarest_of_too_many_extensions_are_left_out(tmp_path: Path):
    members = [(f"a.x{number:03d}", b"1") for number in range(80)] + [("b.x079", b"1"), ("b.jpg", b"1")]
    found, notes = index.build(members_of(toys.write_tar(tmp_path / "a.tar", members)))
    assert len(found.dtype.names or ()) == 1 + index.MAX_EXTENSIONS
    assert notes["rare extensions left out"] == 81 - index.MAX_EXTENSIONS
    assert index.members_of(found, 1)["x079"][1] == 1


def test_ten_thousand_samples_are_those_of_a_loop():
    draw = np.random.default_rng(0)
    members, expected, offset = [], {}, 0
    for number in range(10_000):
        for extension in draw.permutation(["jpg", "txt", "json"])[: draw.integers(1, 4)].tolist():
            size = int(draw.integers(1, 1000))
            members.append(Member(f"{number:06d}.{extension}", offset, size))
            expected.setdefault(f"{number:06d}", {})[extension] = (offset, size)
            offset += size
    found, notes = index.build(members)
    assert not notes
    assert {index.key_of(found, row): index.members_of(found, row) for row in range(len(found))} == expected
