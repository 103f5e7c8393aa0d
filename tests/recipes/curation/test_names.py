"""Samples by name."""

from pathlib import Path

import numpy as np

from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.recipes.curation import names
from contrastive.recipes.curation.names import Lookup, name_of, names_of, place_name, repeated
from contrastive.recipes.engine import Local
from contrastive.settings import DataConfig
from tests import toys


def test_the_names_of_a_pool_are_those_of_its_keys_in_order(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(names, "SPAN", 7)
    pool = open_pool(DataConfig(train=str(toys.write_shards(tmp_path, 20, 3))), Storage())
    expected = [name_of(f"s{number:05d}") for number in range(20)]
    assert names_of(pool, Local(1)).tolist() == np.array(expected, "S16").tolist()
    assert names_of(pool, Local(2)).tolist() == np.array(expected, "S16").tolist()
    assert names_of(pool, Local(1), place_name)[7] == name_of("00001.tar", 0, "s00007")


def test_parts_of_a_name_are_told_apart():
    assert name_of("a", "bc") != name_of("ab", "c")


def test_names_are_found_where_they_stand():
    listed = np.array([name_of(n) for n in (5, 3, 8, 3)], "S16")
    asked = np.array([name_of(n) for n in (3, 4, 8, 5)], "S16")
    assert Lookup.of(listed).find(asked).tolist() == [1, -1, 2, 0]
    assert Lookup.of(listed[:0]).find(asked).tolist() == [-1] * 4
    assert Lookup.of(listed).repeats.tolist() == [3]


def test_names_that_end_in_zeros_are_told_apart():
    listed = np.array([b"a" * 15 + b"\0", b"a" * 14 + b"\0\1"], "S16")
    assert Lookup.of(listed).find(listed).tolist() == [0, 1]
    assert not repeated(listed).any()


def test_repeated_names_are_all_marked():
    listed = np.array([name_of(n) for n in (5, 3, 8, 3, 5, 3)], "S16")
    assert repeated(listed).tolist() == [True, True, False, True, True, True]
