"""Which samples lists choose together."""

import json
from pathlib import Path

import numpy as np
import pytest

from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.recipes.curation.lists import read_list
from contrastive.recipes.curation.subsets import PoolNames, Subset
from contrastive.recipes.engine import Local
from contrastive.recipes.verdicts import Verdict, writing_verdicts
from contrastive.settings import DataConfig
from tests import toys


def subset_of(folder: Path, missing: str = "refuse") -> Subset:
    pool = open_pool(DataConfig(train=str(folder)), Storage())
    return Subset(PoolNames(pool, Storage(), Local(1)), missing)  # type: ignore[arg-type]


def listed(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def key(number: int) -> str:
    return f"s{number:05d}"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return toys.write_shards(tmp_path / "shards", 30, 3)


def test_what_all_lists_keep_and_none_excludes_stays(tmp_path: Path, shards: Path):
    found = subset_of(shards)
    halves = [{"key": key(n), "kept": n % 2 == 0, "reason": "odd" if n % 2 else ""} for n in range(30)]
    even = listed(tmp_path / "even.jsonl", halves)
    third = listed(tmp_path / "third.jsonl", [{"key": key(n)} for n in range(0, 30, 3)] + [{"key": "nobody"}])
    leaks = listed(tmp_path / "leaks.jsonl", [{"key": key(6)}, {"key": key(7)}])
    found.keep(read_list(even, ""))
    found.keep(read_list(third, ""))
    found.exclude(read_list(leaks, ""))
    assert found.numbers.tolist() == [0, 12, 18, 24]
    reasons = [found.reasons[code] for code in found.codes]
    assert (reasons[1], reasons[2], reasons[6]) == ("odd", "not in third.jsonl", "in leaks.jsonl")
    assert found.dropped == {"odd": 15, "not in third.jsonl": 10, "in leaks.jsonl": 1}
    assert [(one["role"], one["rows"], one["samples known"]) for one in found.made_of] == [
        ("keep", 30, 30),
        ("keep", 11, 10),
        ("exclude", 2, 2),
    ]


def test_verdicts_on_other_shards_are_matched_by_place(tmp_path: Path, shards: Path):
    old = toys.write_shards(tmp_path / "old" / "shards", 30, 3)
    (old / "00002.tar").rename(old / "0.tar")  # which comes first
    pool = open_pool(DataConfig(train=str(old)), Storage())
    with writing_verdicts(tmp_path / "v.parquet", pool, {}) as verdicts:
        for number in range(len(pool)):
            verdicts.add(Verdict(number, "" if number % 5 == 0 else "bad"))
    found = subset_of(shards, "keep")
    found.keep(read_list(tmp_path / "v.parquet", found.names.pool.fingerprint))
    assert found.numbers.tolist() == [0, 5, 10, 15, *range(20, 30)]


@pytest.mark.parametrize(("missing", "kept"), [("drop", 10), ("keep", 20)])
def test_missing_says_what_becomes_of_unknown_samples(tmp_path: Path, shards: Path, missing: str, kept: int):
    found = subset_of(shards, missing)
    found.keep(read_list(listed(tmp_path / "a.jsonl", [{"key": key(n), "kept": n < 10} for n in range(20)]), ""))
    assert len(found.numbers) == kept
    assert found.dropped.get("unknown to a.jsonl", 0) == (10 if missing == "drop" else 0)


def test_unknown_samples_are_refused_with_their_number(tmp_path: Path, shards: Path):
    found = subset_of(shards)
    rule = r"a.jsonl: does not speak of 10 of 30 samples \(.*00002.tar:s00020\); .* --missing drop"
    with pytest.raises(DataError, match=rule):
        found.keep(read_list(listed(tmp_path / "a.jsonl", [{"key": key(n), "kept": True} for n in range(20)]), ""))


def test_a_list_of_other_samples_is_refused(tmp_path: Path, shards: Path):
    with pytest.raises(DataError, match=r"a.jsonl: none of its 1 keys is that of a sample; is it of other shards"):
        subset_of(shards).keep(read_list(listed(tmp_path / "a.jsonl", [{"key": "x"}]), ""))


def test_a_list_that_contradicts_itself_is_refused(tmp_path: Path, shards: Path):
    rows = [{"key": key(0), "kept": True}, {"key": key(0), "kept": False}]
    with pytest.raises(DataError, match=r"keeps and drops 1 samples at once"):
        subset_of(shards).keep(read_list(listed(tmp_path / "a.jsonl", rows), ""))


def test_keys_that_stand_twice_need_a_place(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        toys.write_tar(tmp_path / "shards" / name, toys.members(1) + toys.members(2))
    with pytest.raises(
        DataError, match=f"speaks of '{key(1)}', which stands twice in the shards; give the list columns"
    ):
        subset_of(tmp_path / "shards").keep(read_list(listed(tmp_path / "k.jsonl", [{"key": key(1)}]), ""))
    found = subset_of(tmp_path / "shards")
    found.keep(read_list(listed(tmp_path / "p.jsonl", [{"shard": "b.tar", "row": 0, "key": key(1)}]), ""))
    assert found.numbers.tolist() == [2]


def test_verdicts_that_were_cut_short_are_refused(tmp_path: Path, shards: Path):
    found = subset_of(shards)
    with writing_verdicts(tmp_path / "v.parquet", found.names.pool, {}) as verdicts:
        verdicts.add(Verdict(0))
    with pytest.raises(DataError, match=r"v.parquet: has 1 rows of 30 samples"):
        found.keep(read_list(tmp_path / "v.parquet", found.names.pool.fingerprint))


def test_a_draw_is_a_part_of_a_larger_one_and_knows_no_order_of_shards(tmp_path: Path, shards: Path):
    def drawn(folder: Path, most: int | float, seed: int = 0) -> set[str]:
        found = subset_of(folder)
        found.draw(most, seed)
        return {found.names.pool.find(number).row.key for number in found.numbers.tolist()}

    assert len(drawn(shards, 12)) == 12
    assert drawn(shards, 0.2) == drawn(shards, 6) < drawn(shards, 12)
    assert drawn(shards, 12) != drawn(shards, 12, seed=1)
    other = toys.write_shards(tmp_path / "other", 30, 2)
    (other / "00000.tar").rename(other / "z.tar")
    assert drawn(other, 12) == drawn(shards, 12)
    assert len(drawn(shards, 99)) == 30


def test_a_draw_is_fair(tmp_path: Path):
    members = [(f"{n}.{ending}", b"x") for n in range(2000) for ending in ("png", "txt")]
    toys.write_tar(tmp_path / "shards" / "a.tar", members)
    found = subset_of(tmp_path / "shards")
    found.draw(500, 3)
    halves = np.count_nonzero(found.numbers < 1000)
    assert abs(halves - 250) < 4 * np.sqrt(500 * 0.25 * 0.75)  # of a draw without replacement
