"""Which samples pass all filters, why the others do not, and the scores of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.recipes.curation.passes import Columns, Numbers
from contrastive.recipes.samples import Sample


class Judged(NamedTuple):
    """What a filter says of a sample: `reason` is empty where it may stay, else one of few, to count by."""

    reason: str = ""
    scores: Mapping[str, float] = {}


class Filter(Protocol):
    """A rule that samples must keep to; its constructor's arguments are the options that a user may set.

    What it costs is what it asks of the sample: see `Sample`. A constructor that has an argument `pool` is given the
    samples, to look up what it needs before any is judged. Filters travel to other processes.
    """

    @property
    def scores(self) -> Mapping[str, float | None]:
        """The scores that it gives, and where it cuts each; None where it does not."""
        ...

    def judge(self, sample: Sample) -> Judged:
        """Return whether a sample may stay.

        Raises:
            BadSampleError: what it asks of the sample cannot be read; its reason becomes the sample's.
        """
        ...


@dataclass(frozen=True)
class Judge:
    """Asks filters one after the other until one says no, so that a sample has one reason.

    Scores of the filters that were not asked are NaN.
    """

    filters: Sequence[Filter]

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores of all filters, and where the first that gives it cuts each."""
        found: dict[str, float | None] = {}
        for one in self.filters:
            for name, limit in one.scores.items():
                if found.get(name) is None:
                    found[name] = limit
        return found

    def judge(self, sample: Sample) -> Judged:
        """Return what the first filter that drops the sample says, with the scores until then."""
        scores: dict[str, float] = {}
        try:
            for one in self.filters:
                said = one.judge(sample)
                scores.update(said.scores)
                if said.reason:
                    return Judged(said.reason, scores)
        except BadSampleError as error:
            return Judged(error.reason, scores)
        return Judged("", scores)

    def __call__(self, reader: Reader, numbers: Numbers) -> Columns:
        """Return the samples' reasons, text [B], and their scores, float32 [B, S] in the order of `scores`.

        Raises:
            DataError: a filter gives a score that it did not name.
        """
        names = {name: at for at, name in enumerate(self.scores)}
        scores = np.full((len(numbers), len(names)), np.nan, np.float32)
        reasons = []
        for row, number in enumerate(numbers.tolist()):
            said = self.judge(Sample(reader, number))
            reasons.append(said.reason)
            for name, value in said.scores.items():
                if name not in names:
                    raise DataError(f"filter: gives a score {name!r}; name it in the filter's `scores`")
                scores[row, names[name]] = value
        return {"reason": np.array(reasons, np.str_), "scores": scores}
