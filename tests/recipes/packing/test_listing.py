"""Rows go to disk once, and come back by number."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.packing.keys import key_hash
from contrastive.recipes.packing.listing import MOST_SPLITS, Listing, is_same, write_listing
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.records import File, Record, Rejected, Span


def listed(rows: list, folder: Path, **how) -> Listing:
    return write_listing(rows, folder / "listing", Packing(**how))


def record(key: str, image=b"1", caption: str = "a cat", **more) -> Record:
    return Record(key, image, (caption,), f"row of {key}", **more)


def test_rows_come_back_as_they_were(tmp_path: Path):
    rows = [
        record("a/b.c", File("x.jpg"), fields={"n": 1, "ü": None}),
        Rejected("row 2", "k", "row: broken", "row 2: is broken"),
        record("b", Span("s3://x/0.tar", 512, 7, 99), members={"txt": b"hello", "json": Span("t.tar", 1, 2)}),
        record("c", b"bytes", caption="half \ud83d"),
    ]
    listing = listed(rows, tmp_path)
    first = listing.row(0)
    assert (first.key, first.source_key, first.where) == ("a/b%2Ec", "a/b.c", "row of a/b.c")
    assert (first.image, first.captions, first.fields) == (
        str(Path("x.jpg").absolute()),
        ["a cat"],
        {"n": 1, "ü": None},
    )
    assert listing.rejected(1) == rows[1]
    third = listing.row(2)
    assert third.image == ["s3://x/0.tar", 512, 7, 99]
    assert third.members["json"] == [str(Path("t.tar").absolute()), 1, 2, -1]
    assert listing.spilled(*third.members["txt"][:2]) == b"hello"
    assert listing.spilled(*listing.row(3).image[:2]) == b"bytes"
    assert listing.row(3).captions == ["half \ud83d"]
    assert listing.array("kinds").tolist() == [0, 1, 0, 0]
    assert listing.array("hashes")[2] == key_hash("b")
    listing.close()


def test_rows_of_one_sample_that_follow_each_other_are_one(tmp_path: Path):
    captions = ("one", "two", "one", "three")
    rows = [record("a", File("x.jpg"), text, fields={"text": text}) for text in captions]
    listing = listed([*rows, record("b"), record("a", File("x.jpg"), "four")], tmp_path)
    row = listing.row(0)
    assert (row.captions, row.rows, row.fields) == (["one", "two", "three"], 4, {"text": "one"})
    assert (listing.facts.rows, listing.facts.seen_rows, listing.facts.several) == (3, 6, 1)


def test_equal_bytes_of_one_key_are_kept_once(tmp_path: Path):
    listing = listed([record("a", b"same", "one"), record("a", b"same", "two"), record("a", b"other")], tmp_path)
    assert listing.facts.rows == 2
    assert (tmp_path / "listing" / "contents.bin").read_bytes() == b"sameother"


def test_images_are_the_same_by_place_or_by_content():
    assert is_same("a", "a")
    assert not is_same("a", "b")
    assert not is_same("a", [0, 1, "hash"])
    assert is_same([0, 4, "hash"], [9, 4, "hash"])
    assert not is_same([0, 4, "hash"], [0, 4, "other"])
    assert not is_same(["t", 0, 4, -1], ["t", 512, 4, -1])


def test_the_fingerprint_is_that_of_the_rows(tmp_path: Path):
    one, same, other = (listed([record("a", caption=text)], tmp_path).facts.fingerprint for text in ("x", "x", "y"))
    assert one == same != other


def test_half_a_listing_is_none(tmp_path: Path):
    listing = listed([record("a")], tmp_path)
    assert Listing.open(listing.folder) == listing
    (listing.folder / "listing.json").unlink()
    assert Listing.open(listing.folder) is None


def test_a_row_without_a_key_is_rejected(tmp_path: Path):
    listing = listed([record("")], tmp_path)
    assert listing.rejected(0).reason == "key: empty"


def test_a_field_decides_the_split_whatever_its_kind(tmp_path: Path):
    rows = [record(f"k{n}", fields={"who": who}) for n, who in enumerate((7, "7", 7, [1]))]
    listing = listed([*rows, record("x", fields={"other": 1})], tmp_path, splits={"val": 0.5}, split_by="who")
    splits = listing.array("splits").tolist()
    assert splits[0] == splits[2] != splits[1]
    assert listing.rejected(4).message == "row of x: has no field 'who', by which samples are split"


def test_a_field_that_no_row_has_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--split-by whom: no row has such a field; they have who, n"):
        listed([record("a", fields={"who": 1, "n": 2})], tmp_path, splits={"val": 0.5}, split_by="whom")


def test_the_source_names_its_splits(tmp_path: Path):
    rows = [record(f"k{n}", split=split) for n, split in enumerate(("val", None, " val ", "../x"))]
    listing = listed(rows, tmp_path, own_splits=True)
    assert listing.facts.splits == ["val", ""]
    assert listing.array("splits").tolist()[:3] == [0, 1, 0]
    assert listing.rejected(3).message == "row of k3: its split '../x' cannot be the name of a folder"


def test_a_column_that_names_no_splits_is_refused(tmp_path: Path):
    rows = [record(f"k{n}", split=f"s{n}") for n in range(MOST_SPLITS + 1)]
    with pytest.raises(DataError, match="more than 100 splits; is this the right column for --split source"):
        listed(rows, tmp_path, own_splits=True)


def test_no_row_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the source holds no row"):
        listed([], tmp_path)


def test_progress_is_told_now_and_then(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    rows = (record(f"k{n}") for n in range(2500))
    write_listing(rows, tmp_path / "x", Packing(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 0), (2000, 0)]
    assert np.array_equal(np.diff(Listing.open(tmp_path / "x").array("starts")) > 0, np.ones(2500, bool))  # type: ignore[union-attr]
