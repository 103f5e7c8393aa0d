"""Shards that lost samples become equal again."""

import numpy as np
import pytest

from contrastive.recipes.packing.levelling import Piece, moves, shifts


def by_hand(counts: list[int], changes: list) -> list[list[tuple[int, int]]]:
    """Return the samples of every shard, as (shard it was packed in, place), after the changes."""
    found = [[(shard, place) for place in range(count)] for shard, count in enumerate(counts)]
    for change in changes:
        found[change.shard] = [(one.shard, place) for one in change.pieces for place in range(one.first, one.last)]
    return found


CASES = [[5, 5, 5], [5, 3, 5], [0, 5, 5], [5, 4, 4], [1, 0, 0], [5, 0, 5, 0, 5], [3, 3, 3, 3], [5], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("counts", CASES)
@pytest.mark.parametrize("way", [moves, shifts])
def test_sizes_are_equal_and_nothing_is_lost(counts: list[int], way):
    before = {(shard, place) for shard, count in enumerate(counts) for place in range(count)}
    shards = by_hand(counts, way(counts, 5))
    if way is shifts and way(counts, 5):
        shards = shards[: len(way(counts, 5))]
    filled = [len(shard) for shard in shards if shard]
    assert max(filled) - min(filled) <= 1
    assert len(filled) == -(-sum(counts) // 5)
    assert sorted(sample for shard in shards for sample in shard) == sorted(before)
    assert all(filled[:1]), "the shards at the end are the ones that go"


@pytest.mark.parametrize("counts", CASES)
def test_the_order_stays_when_it_is_asked_for(counts: list[int]):
    changes = shifts(counts, 5)
    shards = by_hand(counts, changes)[: len(changes)] if changes else by_hand(counts, [])
    flat = [sample for shard in shards for sample in shard]
    assert flat == sorted(flat)


def test_random_counts_are_levelled_with_the_fewest_moves():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 20, rng.integers(1, 12)).tolist()
        if not sum(counts):
            continue
        after = [len(shard) for shard in by_hand(counts, moves(counts, 19))]
        moved = sum(max(0, count - want) for count, want in zip(counts, after, strict=True))
        sizes = np.diff([sum(counts) * n // sum(map(bool, after)) for n in range(sum(map(bool, after)) + 1)])
        least = min(
            sum(max(0, count - want) for count, want in zip(counts, [*ordered, *([0] * 12)], strict=False))
            for ordered in (np.roll(sorted(sizes), shift).tolist() for shift in range(len(sizes)))
        )
        assert moved <= least


def test_nothing_moves_where_nothing_has_to():
    assert moves([5, 5, 4], 5) == []
    assert moves([4, 5, 5], 5) == []
    assert shifts([4, 5, 5], 5) == []


def test_the_last_samples_are_the_ones_that_move():
    (growing,) = [change for change in moves([5, 2, 5], 5) if change.grows]
    assert growing.pieces == (Piece(1, 0, 2), Piece(0, 4, 5), Piece(2, 4, 5))
