"""Rows of one key: another caption of the sample, or a claim to what is taken."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from contrastive.recipes.packing import listing as listings
from contrastive.recipes.packing.grouping import Groups, grouped
from contrastive.recipes.packing.listing import write_listing
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.records import File, Record, Rejected


def rows(count: int, seed: int = 0) -> list[Record | Rejected]:
    """Random keys and images, so that keys meet in all ways, never next to each other by chance alone."""
    rng = np.random.default_rng(seed)
    found: list[Record | Rejected] = []
    for n in range(count):
        if rng.random() < 0.1:
            found.append(Rejected(f"row {n}", "", "row: broken", "is broken"))
        key, image = rng.integers(0, count // 2), rng.integers(0, 2)
        found.append(Record(f"k{key}", File(f"/{key}-{image}.jpg"), (f"caption {n}",), f"row {n}"))
    return found


def by_hand(listing) -> tuple[dict[int, list[int]], set[int]]:
    """Return the samples with their other rows, and the rejected rows, by a loop over dictionaries."""
    first: dict[str, tuple[int, object]] = {}
    samples: dict[int, list[int]] = defaultdict(list)
    gone = set()
    for number, kind in enumerate(listing.array("kinds")):
        if kind:
            continue
        row = listing.row(number)
        owner, image = first.setdefault(row.key, (number, row.image))
        if owner == number:
            samples[number] = []
        elif image == row.image:
            samples[owner].append(number)
        else:
            gone.add(number)
    return dict(samples), gone


def as_dict(groups: Groups) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {number: [] for number in groups.samples.tolist()}
    for owner, other in zip(groups.owners.tolist(), groups.others.tolist(), strict=True):
        found[owner].append(other)
    return found


@pytest.mark.parametrize("bits", [64, 2])
def test_samples_are_those_of_a_loop_over_keys_also_where_hashes_meet(tmp_path: Path, bits: int, monkeypatch):
    whole = listings.key_hash
    monkeypatch.setattr(listings, "key_hash", lambda key: whole(key) % 2**bits)
    listing = write_listing(rows(120), tmp_path / "listing", Packing())
    groups = grouped(listing, tmp_path / "rejected")
    samples, gone = by_hand(listing)
    assert as_dict(groups) == samples
    lines = (tmp_path / "rejected").read_text().splitlines()
    assert {int(line.partition("\t")[0]) for line in lines} == gone
    assert groups.samples.tolist() == sorted(samples)


def test_others_are_found_of_any_samples(tmp_path: Path):
    listing = write_listing(rows(120, 3), tmp_path / "listing", Packing())
    groups = grouped(listing, tmp_path / "rejected")
    some = groups.samples[::-3]
    owners, others = groups.others_of(some)
    expected = as_dict(groups)
    assert [(o, r) for o, r in zip(owners.tolist(), others.tolist(), strict=True)] == [
        (number, other) for number in some.tolist() for other in expected[number]
    ]


def test_a_key_that_stands_twice_names_both_rows(tmp_path: Path):
    three = [Record("a", File(f"/{n}.jpg"), ("x",), f"row {n}") for n in (1, 2)]
    listing = write_listing([three[0], Record("b", b"", ("x",), "b"), three[1]], tmp_path / "listing", Packing())
    grouped(listing, tmp_path / "rejected")
    row, _, said = (tmp_path / "rejected").read_text().partition("\t")
    assert (row, json.loads(said)) == (
        "2",
        {
            "where": "row 2",
            "key": "a",
            "reason": "key: stands twice",
            "message": "row 2: its key 'a' stands twice, the first time with another image: row 1",
        },
    )
