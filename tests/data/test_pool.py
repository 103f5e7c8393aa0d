import shutil
from pathlib import Path

import numpy as np
import pytest

from contrastive.data.pool import layout, open_pool, storage_options
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError, DataError
from tests import toys
from tests.data.toys import pool, settings


def two(folder: Path, **options: float) -> dict[str, dict[str, object]]:
    toys.write_shards(folder / "a", 12, 2)
    toys.write_shards(folder / "b", 5, 1)
    return {"a": {"shards": str(folder / "a")}, "b": {"shards": str(folder / "b"), **options}}


def test_numbers_go_through_the_sources_in_turn(tmp_path: Path):
    found = pool(settings(sources=two(tmp_path)))
    assert len(found) == 17
    assert found.shard_count == 3
    assert found.starts.tolist() == [0, 12, 17]
    names = [(found.find(n).source.name, found.find(n).row.key) for n in (0, 11, 12, 16)]
    assert names == [("a", "s00000"), ("a", "s00011"), ("b", "s00000"), ("b", "s00004")]
    assert found.find(6).where == f"{tmp_path}/a/00001.tar:s00006"
    assert found.span(3) == (0, 12)
    assert found.span(14) == (12, 5)


def test_an_epoch_shows_each_source_by_its_weight(tmp_path: Path):
    data = settings(sources=two(tmp_path, weight=2.0))
    order = pool(data).order(data, seed=0)
    assert order.epoch_samples == 22
    drawn = order.at(np.arange(22))
    numbers, counts = np.unique(drawn.number, return_counts=True)
    assert numbers.tolist() == list(range(17))
    assert counts.tolist() == [1] * 12 + [2] * 5


def test_the_fingerprint_is_of_the_samples_not_of_the_place(tmp_path: Path):
    toys.write_shards(tmp_path / "a", 12, 2)
    before = pool(settings(tmp_path / "a")).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert pool(settings(tmp_path / "b")).fingerprint == before
    assert pool(settings(tmp_path / "a", caption_key="txt")).fingerprint != before
    toys.write_shards(tmp_path / "a", 11, 2)
    assert pool(settings(tmp_path / "a")).fingerprint != before


def test_a_state_names_all_that_decides_the_order(tmp_path: Path):
    data = settings(sources=two(tmp_path, weight=0.5), lanes=2, window=3)
    state = pool(data).state(data, seed=7, consumed=40)
    assert (state.consumed, state.seed, state.lanes, state.window) == (40, 7, (2, 2), (3, 3))
    assert state.weights == ("1.0", "0.5")


def test_a_file_system_is_permuted_whole_and_urls_are_read_in_lanes(tmp_path: Path):
    found = pool(settings(toys.write_shards(tmp_path / "a", 24, 12))).manifests[0]
    assert layout(settings("x"), found) == (1, None)
    assert layout(settings("x", lanes=4), found) == (4, None)
    from dataclasses import replace

    remote = replace(
        found, shards=tuple(replace(s, location=f"http://host/{i}.tar") for i, s in enumerate(found.shards))
    )
    assert layout(settings("x"), remote) == (3, 4096)
    assert layout(settings("x", window=64), remote) == (3, 64)


def test_the_settings_of_reading_reach_the_storage(tmp_path: Path):
    data = settings("x", cache=str(tmp_path), cache_gigabytes=2.0, memory_gigabytes=0.5, retries=3, stall_seconds=4.0)
    options = storage_options(data)
    assert (options.cache, options.cache_bytes, options.memory_bytes) == (tmp_path, 2 * 10**9, 5 * 10**8)
    assert (options.retries, options.stall_seconds) == (3, 4.0)


def test_a_pipe_needs_permission(tmp_path: Path):
    with pytest.raises((ConfigError, DataError), match=r"pipe.*data\.allow_pipes=true"):
        open_pool(settings("pipe:cat x.tar"), Storage())
