"""Keys under which samples are packed again."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.recipes.curation import names
from contrastive.recipes.curation.repacking import Keys
from contrastive.recipes.engine import Local
from contrastive.settings import DataConfig
from tests import toys


def sample(key: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", key.encode()), (f"{key}.txt", b"x")]


def pool_of(folder: Path, shards: dict[str, list[str]], **sources: str) -> Pool:
    for name, keys in shards.items():
        toys.write_tar(folder / name, [member for key in keys for member in sample(key)])
    if sources:
        specs = {name: {"shards": str(folder / place)} for name, place in sources.items()}
        return open_pool(DataConfig(sources=specs), Storage())
    return open_pool(DataConfig(train=str(folder)), Storage())


def keys_of(pool: Pool, prefix: str = "auto", numbers: list[int] | None = None) -> Keys:
    chosen = np.arange(len(pool)) if numbers is None else np.array(numbers)
    return Keys.of(pool, chosen, Local(1), prefix)  # type: ignore[arg-type]


def spelled(keys: Keys) -> list[str]:
    return [record.key for record in keys.records(Storage())]


def test_keys_that_stand_once_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(names, "SPAN", 2)
    keys = keys_of(pool_of(tmp_path, {"0.tar": ["a", "d/b"], "1.tar": ["c"]}))
    assert spelled(keys) == ["a", "d/b", "c"]
    assert list(keys.renamed()) == []


def test_keys_of_several_shards_get_the_shards_name(tmp_path: Path):
    keys = keys_of(pool_of(tmp_path, {"0.tar": ["a", "d/b"], "1.tar": ["c", "a"]}))
    assert spelled(keys) == ["0-a", "d/b", "c", "1-a"]
    assert [(found.location, found.row.key, key) for found, key in keys.renamed()] == [
        (f"{tmp_path}/0.tar", "a", "0-a"),
        (f"{tmp_path}/1.tar", "a", "1-a"),
    ]


def test_keys_of_several_sources_get_the_sources_name(tmp_path: Path):
    shards = {"x/0.tar": ["a", "b"], "y/0.tar": ["a", "c"], "y/1.tar": ["c", "x-a"]}
    keys = keys_of(pool_of(tmp_path, shards, x="x", y="y"))
    assert spelled(keys) == ["x-0-a", "b", "y-a", "y-0-c", "y-1-c", "y-x-a"]


def test_every_key_may_get_its_sources_name(tmp_path: Path):
    keys = keys_of(pool_of(tmp_path, {"x/0.tar": ["a"], "y/0.tar": ["b"]}, x="x", y="y"), "always")
    assert spelled(keys) == ["x-a", "y-b"]
    assert len(list(keys.renamed())) == 2


def test_shards_of_one_name_and_keys_that_stand_twice_in_one_are_told_apart(tmp_path: Path):
    pool = pool_of(tmp_path, {"x/0.tar": ["a", "b", "a"], "y/0.tar": ["a"]}, x="x", y="y")
    keys = spelled(keys_of(pool))
    assert len(set(keys)) == 4
    assert keys[1] == "b"
    assert all(key.endswith("a") or "-a-" in key for key in (keys[0], keys[2], keys[3]))


def test_a_key_that_another_ones_new_key_equals_is_changed_too(tmp_path: Path):
    keys = spelled(keys_of(pool_of(tmp_path, {"0.tar": ["a", "1-a"], "1.tar": ["a"]})))
    assert len(set(keys)) == 3


def test_only_the_chosen_samples_count(tmp_path: Path):
    pool = pool_of(tmp_path, {"0.tar": ["a", "b"], "1.tar": ["a"]})
    assert spelled(keys_of(pool, numbers=[1, 2])) == ["b", "a"]


def test_a_key_that_fits_no_tar_counts_as_changed(tmp_path: Path):
    keys = keys_of(pool_of(tmp_path, {"0.tar": ["1.5", "2"]}))
    assert [(found.row.key, key) for found, key in keys.renamed()] == [("1.5", "1%2E5")]
