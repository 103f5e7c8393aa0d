"""Counts, distributions and examples of what a step said of the samples, gathered part by part."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.data.stream import BadSampleError, Reader
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import Example, Histogram, chosen, example, histogram

KEPT = "kept"
DRAWN = 1_000_000  # values that a histogram is made of
GROUPS = 20  # reasons that are shown with examples, the most frequent


class Tally:
    """Takes what a step says of `total` samples; holds two bytes for each, and a million scores of each kind."""

    def __init__(self, total: int, limits: Mapping[str, float | None]) -> None:
        self.limits = limits
        self._every = max(1, -(-total // DRAWN))
        self._numbers: list[NDArray[np.int64]] = []
        self._codes: list[NDArray[np.int16]] = []
        self._reasons: dict[str, int] = {"": 0}
        self._scores: list[NDArray[np.float32]] = []

    def add(self, numbers: NDArray[np.int64], reasons: NDArray[np.str_], scores: NDArray[np.float32]) -> None:
        """Take samples with their reasons, text [B], and scores, float32 [B, S] in the order of the limits."""
        names, inverse = np.unique(reasons, return_inverse=True)
        codes = [self._reasons.setdefault(str(name), len(self._reasons)) for name in names]
        self._codes.append(np.array(codes, np.int16)[inverse])
        self._numbers.append(numbers)
        self._scores.append(scores[numbers % self._every == 0])

    @property
    def counts(self) -> dict[str, int]:
        """Samples by reason, the most frequent first; those that are kept under an empty one."""
        counts = np.bincount(self._all_codes(), minlength=len(self._reasons))
        found = {name: int(counts[code]) for name, code in self._reasons.items() if counts[code]}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def dropped(self) -> dict[str, int]:
        """Samples that are dropped, by reason, the most frequent first."""
        return {name: count for name, count in self.counts.items() if name}

    @property
    def kept(self) -> int:
        """How many samples are kept."""
        return self.counts.get("", 0)

    def histograms(self) -> dict[str, Histogram]:
        """Return the distribution of each score that some sample has."""
        if not self._scores:
            return {}
        table = np.concatenate(self._scores)
        columns = zip(self.limits.items(), table.T, strict=True)
        return {name: histogram(values, limit) for (name, limit), values in columns if np.isfinite(values).any()}

    def examples(self, reader: Reader, note: Callable[[Sample], str]) -> dict[str, list[Example]]:
        """Return some samples that are kept, and some of each reason, with their pictures."""
        if not self._codes:
            return {}
        numbers, codes = np.concatenate(self._numbers), self._all_codes()
        found = {}
        for reason in ["", *list(self.dropped)[:GROUPS]]:
            these: Any = numbers[codes == self._reasons[reason]]
            found[reason or KEPT] = [_shown(Sample(reader, int(one)), note) for one in chosen(these)]
        return {reason: examples for reason, examples in found.items() if examples}

    def _all_codes(self) -> NDArray[np.int16]:
        return np.concatenate(self._codes) if self._codes else np.zeros(0, np.int16)


def _shown(sample: Sample, note: Callable[[Sample], str]) -> Example:
    caption, image = "", None
    try:
        caption = " | ".join(sample.captions)
    except BadSampleError as error:
        caption = f"({error.reason})"
    with suppress(BadSampleError):  # its reason says it
        image = sample.image
    return example(sample.key, caption, image, note(sample))
