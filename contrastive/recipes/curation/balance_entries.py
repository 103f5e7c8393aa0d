"""Entries to balance by: those of a list, or the most frequent words and pairs of words of the captions."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.recipes.curation.filter_text import Phrases, spaced, words_of
from contrastive.recipes.curation.passes import Columns, Numbers, Progress, over_spans
from contrastive.recipes.engine import Engine
from contrastive.recipes.looking import spread
from contrastive.recipes.samples import Sample

LOOKED_AT = 200_000  # samples that entries are taken from: about as many different pairs of words fit 300 MB


def entries_from_captions(
    reader: Reader, most: int, engine: Engine, progress: Progress | None = None
) -> list[tuple[str, int]]:
    """Return the `most` frequent words and pairs of words of the captions, and the samples that have them.

    At most LOOKED_AT samples, evenly spread, are read. Each counts once for a sample; of equally frequent ones the
    first of the alphabet comes first.

    Raises:
        DataError: no caption has a word.
    """
    counts: Counter[str] = Counter()
    for _, found in over_spans(_grams, reader, spread(len(reader.pool), LOOKED_AT), engine, progress):
        counts.update(dict(zip(found["gram"].tolist(), found["samples"].tolist(), strict=True)))
    if not counts:
        raise DataError("--entries-from-captions: no caption that can be read has a word")
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def phrases(names: list[str]) -> Phrases:
    """Return entries as they are found in captions; those that differ only in case or blanks are one."""
    return Phrases(spaced(name) for name in names)


def _grams(reader: Reader, numbers: Numbers) -> Columns:
    """Return the words and pairs of words of some samples (`gram`, text [G]), and in how many each is (`samples`)."""
    counts: Counter[str] = Counter()
    for number in numbers.tolist():
        try:
            captions = Sample(reader, number).captions
        except BadSampleError:
            continue  # the pass that follows counts it
        counts.update({gram for caption in captions for gram in _of(caption)})
    return {"gram": np.array(list(counts), np.str_), "samples": np.array(list(counts.values()), np.int64)}


def _of(caption: str) -> Iterator[str]:
    parts, words = spaced(caption), set(words_of(caption))
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(parts) if first in words and second in words)
