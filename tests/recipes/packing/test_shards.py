"""One shard: whole or not there, and its state last."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contrastive.data.storage import Storage
from contrastive.recipes.packing import shards
from contrastive.recipes.packing.listing import Listing, write_listing
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.packing.shards import Job, ShardWriter, State, entry_of, noted
from tests.recipes.packing.sources import good, write_images

NONE = np.empty(0, np.int64)


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    return write_listing(good(write_images(tmp_path / "images", 6), 6), tmp_path / "listing", Packing())


def test_a_shard_knows_where_its_samples_end(listing: Listing, tmp_path: Path):
    state = ShardWriter(listing, Packing())(Job(str(tmp_path / "s" / "0"), np.arange(6), NONE, NONE))
    ends = np.load(tmp_path / "s" / "0.ends.npy")
    content = (tmp_path / "s" / "0.tar").read_bytes()
    assert len(ends) == state.samples == 6
    assert ends[-1] == state.end
    assert not any(content[state.end :])
    assert all(content[end : end + 5] in (b"i001.", b"i002.", b"i003.", b"i004.", b"i005.") for end in ends[:-1])
    assert entry_of(state).rows == 6
    assert State.load(str(tmp_path / "s" / "0")) == state


def test_a_shard_that_is_there_is_not_written_again(listing: Listing, tmp_path: Path):
    job = Job(str(tmp_path / "s" / "0"), np.arange(6), NONE, NONE)
    first = ShardWriter(listing, Packing())(job)
    before = (tmp_path / "s" / "0.tar").stat().st_mtime_ns
    assert ShardWriter(listing, Packing())(job) == first
    assert (tmp_path / "s" / "0.tar").stat().st_mtime_ns == before


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path):
    (tmp_path / "0.json").write_text('{"samples": 1}')
    assert State.load(str(tmp_path / "0")) is None
    assert State.load(str(tmp_path / "1")) is None


def test_what_is_under_way_is_noted_and_forgotten(listing: Listing, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SAID_SECONDS", 0.0)
    seen = []
    base = str(tmp_path / "s" / "0")
    whole = shards.make
    monkeypatch.setattr(shards, "make", lambda *given: (seen.append(noted([base, "/nowhere"])), whole(*given))[1])
    ShardWriter(listing, Packing())(Job(base, np.arange(6), NONE, NONE))
    assert seen == [0, 1, 2, 3, 4, 5]
    assert noted([base]) == 0


def test_torch_has_its_threads_back(listing: Listing, tmp_path: Path):
    before = torch.get_num_threads()
    ShardWriter(listing, Packing())(Job(str(tmp_path / "0"), np.arange(2), NONE, NONE))
    assert torch.get_num_threads() == before


def test_the_entry_is_what_an_index_of_the_tar_says(listing: Listing, tmp_path: Path):
    base = str(tmp_path / "0")
    state = ShardWriter(listing, Packing())(Job(base, np.arange(6), NONE, NONE))
    assert json.loads(json.dumps(shards.indexed(base))) == state.entry
    assert entry_of(state).is_of(Storage().stat(f"{base}.tar"))
