"""Balancing, beside an independent one by loops."""

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contrastive.errors import DataError
from contrastive.recipes.curation.balance import Draws, Matching, name_hash, probabilities, tail_threshold
from contrastive.recipes.curation.balance_entries import phrases
from contrastive.recipes.curation.passes import Columns
from tests.recipes.curation.pools import Made, opened, write

NAMES = [f"e{number:02d}" for number in range(12)]


def matches(samples: int, seed: int = 0) -> list[set[int]]:
    """Return the entries of samples, drawn so that entry n is twice as rare as entry n - 1."""
    draw = random.Random(seed)
    return [{at for at in range(len(NAMES)) if draw.random() < 0.7 / 2**at} for _ in range(samples)]


def columns(found: list[set[int]], keys: list[str]) -> Columns:
    flat = [entry for one in found for entry in sorted(one)]
    return {
        "key": np.array([name_hash(key) for key in keys], np.uint64),
        "count": np.array([len(one) for one in found], np.int32),
        "entry": np.array(flat, np.int32),
        "reason": np.array([""] * len(found), np.str_),
    }


def counted(found: list[set[int]]) -> np.ndarray:
    counts = Counter(entry for one in found for entry in one)
    return np.array([counts[at] for at in range(len(NAMES))], np.int64)


def kept(found: list[set[int]], keys: list[str], t: int, seed: int = 0) -> list[str]:
    drawn = Draws(NAMES, probabilities(counted(found), t), seed)(columns(found, keys))
    return [key for key, is_kept in zip(keys, drawn.is_kept, strict=True) if is_kept]


KEYS = [f"key{number}" for number in range(20_000)]


def test_the_rate_of_each_kind_of_sample_is_that_of_the_paper():
    found, t = matches(len(KEYS)), 700
    counts = counted(found)
    chances = {}  # of every set of entries: 1 - product of (1 - min(1, t / count)), by a loop
    for one in found:
        missed = 1.0
        for entry in one:
            missed *= 1 - min(1.0, t / counts[entry])
        chances[frozenset(one)] = 1 - missed
    here = set(kept(found, KEYS, t))
    sizes, hits = Counter(map(frozenset, found)), Counter(frozenset(found[int(key[3:])]) for key in here)
    for kind, chance in chances.items():
        sigma = (sizes[kind] * chance * (1 - chance)) ** 0.5
        assert abs(hits[kind] - sizes[kind] * chance) <= 4 * sigma + 1e-9, kind
    drawn = Draws(NAMES, probabilities(counts, t), 0)(columns(found, KEYS))
    np.testing.assert_allclose(drawn.probability, [chances[frozenset(one)] for one in found], atol=1e-12)


def test_the_tail_is_kept_whole_and_the_head_about_t():
    found, t = matches(len(KEYS)), 300
    counts = counted(found)
    assert (counts[:5] > t).all()
    tail = set(np.flatnonzero(counts <= t).tolist())
    here = set(kept(found, KEYS, t))
    assert all(key in here for key, one in zip(KEYS, found, strict=True) if one & tail)
    alone = [key for key, one in zip(KEYS, found, strict=True) if one == {0}]
    expected = len(alone) * t / counts[0]
    assert abs(len(here & set(alone)) - expected) < 4 * expected**0.5


def test_samples_without_an_entry_are_never_drawn():
    found = [set(), {0}, set()]
    assert kept(found, KEYS[:3], 1) == [KEYS[1]]


def test_another_seed_draws_others_and_the_same_seed_the_same():
    found = matches(3000)
    first = kept(found, KEYS[:3000], 50, seed=1)
    assert first == kept(found, KEYS[:3000], 50, seed=1)
    assert first != kept(found, KEYS[:3000], 50, seed=2)


def test_a_larger_t_keeps_all_that_a_smaller_one_kept():
    found = matches(3000)
    sets = [set(kept(found, KEYS[:3000], t)) for t in (10, 100, 1000, 10_000)]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert len(sets[-1]) == sum(1 for one in found if one)


def test_order_and_parts_change_nothing():
    found, keys = matches(3000), KEYS[:3000]
    draws = Draws(NAMES, probabilities(counted(found), 50), 0)
    here = draws(columns(found, keys)).is_kept
    order = list(range(3000))
    random.Random(0).shuffle(order)
    shuffled = draws(columns([found[at] for at in order], [keys[at] for at in order])).is_kept
    np.testing.assert_array_equal(shuffled, here[order])
    parts = [draws(columns(found[at : at + 700], keys[at : at + 700])).is_kept for at in range(0, 3000, 700)]
    np.testing.assert_array_equal(np.concatenate(parts), here)


def test_the_place_of_an_entry_in_the_list_changes_nothing():
    found, keys = matches(2000), KEYS[:2000]
    here = kept(found, keys, 50)
    turned = [{len(NAMES) - 1 - at for at in one} for one in found]
    draws = Draws(NAMES[::-1], probabilities(counted(turned), 50), 0)
    is_kept = draws(columns(turned, keys)).is_kept
    assert [key for key, one in zip(keys, is_kept, strict=True) if one] == here


def test_entries_are_matched_as_the_paper_matches_them(tmp_path: Path):
    samples = [
        Made("a", "A dog, in New York."),
        Made("b", ["hotdog", "the Dog and the dog"]),
        Made("c", "new-york"),
        Made("d", " "),
        Made("e", "U.S. flag"),
    ]
    reader = opened(write(tmp_path, samples))
    entries = phrases(["dog", "New York", "york", "u.s.", "new-york", "DOG"])
    found = Matching(entries)(reader, np.arange(5))
    assert entries.names == ["dog", "new york", "york", "u . s .", "new - york"]
    assert found["count"].tolist() == [3, 1, 2, 0, 1]
    assert found["entry"].tolist() == [0, 1, 2, 0, 2, 4, 3]
    assert found["reason"].tolist() == ["", "", "", "caption: empty", ""]
    assert found["key"].tolist() == [name_hash(key) for key in "abcde"]


@pytest.mark.parametrize("share", [1e-9, 0.06, 0.5, 0.99, 1.0])
def test_the_tails_share_chooses_the_least_t_that_holds_it(share: float):
    counts = np.random.default_rng(0).zipf(1.7, 400)
    counts[:20] = 0
    t = tail_threshold(counts, share)

    def held(t: int) -> float:
        return sum(c for c in counts.tolist() if c <= t) / counts.sum()

    assert held(t) >= share
    lower = [c for c in counts.tolist() if 0 < c < t]
    assert not lower or held(max(lower)) < share


def test_no_match_at_all_is_refused():
    with pytest.raises(DataError, match="no entry matches any caption; is the list of the captions' language"):
        tail_threshold(np.zeros(3, np.int64), 0.06)
