"""Entries taken from the captions."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes.curation import passes
from contrastive.recipes.curation.balance_entries import entries_from_captions
from contrastive.recipes.engine import Local
from tests.recipes.curation.pools import Made, opened, write

CAPTIONS = ["a red dog", "a red cat, a dog", "The red dog!", "red", "a dog dog dog"]


def test_the_most_frequent_words_and_pairs_are_taken(tmp_path: Path):
    reader = opened(write(tmp_path, [Made(f"k{at}", caption) for at, caption in enumerate(CAPTIONS)]))
    expected: Counter[str] = Counter()
    for caption in ("a red dog", "a red cat / a dog", "the red dog", "red", "a dog dog dog"):
        found = set()
        for part in caption.split(" / "):
            words = part.split()
            found |= set(words) | {f"{x} {y}" for x, y in itertools.pairwise(words)}
        expected.update(found)
    ranked = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))
    assert entries_from_captions(reader, 100, Local(1)) == ranked
    assert entries_from_captions(reader, 3, Local(1)) == ranked[:3]


def test_entries_do_not_depend_on_shards_or_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passes, "SPAN", 2)
    samples = [Made(f"k{at}", caption) for at, caption in enumerate(CAPTIONS * 3)]
    one = opened(write(tmp_path / "one", samples))
    two = opened(write(tmp_path / "two", samples[::-1], 4))
    assert entries_from_captions(one, 20, Local(1)) == entries_from_captions(two, 20, Local(2))


def test_captions_without_words_are_refused(tmp_path: Path):
    reader = opened(write(tmp_path, [Made("a", "!!"), Made("b", " ")]))
    with pytest.raises(DataError, match="no caption that can be read has a word"):
        entries_from_captions(reader, 5, Local(1))
