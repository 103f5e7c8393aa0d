import numpy as np
import pytest

from contrastive.recipes.curation import near
from contrastive.recipes.curation.near import Lists, Pairs, features_near, hashes_near, near_features, near_hashes
from contrastive.recipes.engine import Local


def ignore(done: int, total: int) -> None:
    pass


class Array:
    """Features in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.width = rows, rows.shape[1]

    def image(self, numbers: np.ndarray) -> np.ndarray:
        return self.rows[numbers]


def hashes(count: int, seed: int = 0) -> np.ndarray:
    """Return different hashes, of which many are a few bits from another."""
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 2**64, count // 2, dtype=np.uint64)
    flips = (np.uint64(1) << draw.integers(0, 64, (count // 2, 12)).astype(np.uint64)) * (
        draw.random((count // 2, 12)) < 0.6
    )
    return np.unique(np.concatenate([base, base ^ np.bitwise_xor.reduce(flips.astype(np.uint64), 1)]))


def features(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(count // 3, width))
    rows = np.concatenate(
        [base, base + 0.1 * draw.normal(size=base.shape), draw.normal(size=(count - 2 * len(base), width))]
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def as_set(pairs: Pairs) -> set[tuple[int, int, float]]:
    return {(int(a), int(b), round(float(v), 3)) for a, b, v in zip(*pairs, strict=True)}


@pytest.mark.parametrize("distance", [0, 5, 11])
def test_near_hashes_are_those_of_a_comparison_of_all(distance: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "QUERIES", 100)
    found = hashes(700)
    apart = np.bitwise_count(found[:, None] ^ found[None])
    later, earlier = np.nonzero(np.tril(apart <= distance, -1))
    wanted = {(a, b, float(apart[a, b])) for a, b in zip(later.tolist(), earlier.tolist(), strict=True)}
    assert as_set(near_hashes(found, distance, Local(1), ignore)) == wanted
    assert distance == 0 or wanted


def test_queries_find_the_base():
    queries, base = hashes(300, 1), np.concatenate([hashes(100, 2), hashes(300, 1)[::7] ^ np.uint64(5)])
    apart = np.bitwise_count(queries[:, None] ^ base[None])
    wanted = {(int(a), int(b), float(apart[a, b])) for a, b in np.argwhere(apart <= 8)}
    assert as_set(hashes_near(queries, base, 8, Local(1), ignore)) == wanted
    assert len(hashes_near(queries, base[:0], 8, Local(1), ignore).one) == 0


def test_of_too_many_neighbours_the_nearest_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "MOST_HASHES", 3)
    last = np.array([2**40], np.uint64)
    others = np.array([2**40 - 1, 2**40 + 1, 1, 2, 2**39], np.uint64)
    found = hashes_near(last, others, 64, Local(1), ignore)
    apart = np.bitwise_count(last ^ others)
    assert found.value.tolist() == sorted(apart.tolist())[:3]


@pytest.mark.parametrize("processes", [1, 2])
def test_near_features_are_those_of_the_whole_matrix(processes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "ROWS", 64)
    monkeypatch.setattr(near, "COLUMNS", 50)
    rows = features(300)
    numbers = np.random.default_rng(1).permutation(300)[:250]
    place = {int(number): at for at, number in enumerate(numbers)}
    cosines = rows @ rows.T
    wanted = {
        (a, b, round(float(cosines[a, b]), 3))
        for a in place
        for b in place
        if place[b] < place[a] and cosines[a, b] >= 0.9
    }
    found = near_features(Array(rows), numbers, 0.9, Local(processes), ignore)
    assert as_set(found) == wanted
    assert len(found.one) == len(wanted) > 50


def test_of_many_earlier_neighbours_those_of_lowest_rank_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "MOST_EARLIER", 2)
    monkeypatch.setattr(near, "COLUMNS", 3)
    rows = np.ones((9, 4), np.float32) / 2
    found = near_features(Array(rows), np.array([8, 3, 5, 0, 1, 2, 4, 6, 7]), 0.9, Local(1), ignore)
    assert set(zip(found.one.tolist(), found.other.tolist(), strict=True)) == {
        (later, earlier) for later in (5, 0, 1, 2, 4, 6, 7) for earlier in (8, 3)
    } | {(3, 8)}


def test_clusters_lose_next_to_nothing_and_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "CLUSTER", 100)
    rows, numbers = features(1500, 16), np.arange(1500)
    whole = as_set(near_features(Array(rows), numbers, 0.9, Local(1), ignore))
    split = near_features(Array(rows), numbers, 0.9, Local(1), ignore, exact=100)
    assert as_set(split) <= whole
    assert len(split.one) >= 0.98 * len(whole)
    again = near_features(Array(rows), numbers, 0.9, Local(2), ignore, exact=100)
    assert all(np.array_equal(one, other) for one, other in zip(split, again, strict=True))


def test_the_nearest_of_a_base_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "COLUMNS", 7)
    rows, base = features(90), features(30, seed=0)
    cosines = rows @ base.T
    found = features_near(Array(rows), np.arange(90), base, 0.9, Local(1), ignore)
    assert found.one.tolist() == np.flatnonzero(cosines.max(1) >= 0.9).tolist()
    assert found.value == pytest.approx(cosines.max(1)[found.one], abs=1e-6)
    assert found.other.tolist() == cosines.argmax(1)[found.one].tolist()


def test_lists_hold_what_belongs_to_a_key():
    lists = Lists.of(np.array([2, 0, 2]), np.array([7, 8, 9]), 4)
    assert [lists[key].tolist() for key in range(4)] == [[8], [], [7, 9], []]
