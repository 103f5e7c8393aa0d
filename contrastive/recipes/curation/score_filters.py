"""Filters of numbers that are known already: scores of a file, columns of any table, fields of the json member."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool
from contrastive.errors import ConfigError
from contrastive.recipes.curation.filter_columns import values_of
from contrastive.recipes.curation.filtering import Judged
from contrastive.recipes.samples import Sample

FIELD = "json."


class Column:
    """Keeps samples whose value is at least `min`, at most `max`, among the `top` share, or `equals` another.

    `column` is one of `file` (Parquet or CSV with the samples' keys; see `contrastive.recipes.verdicts`), or
    json.FIELD of the samples' json member. `top` is a share of all samples that have a value, whatever other filters
    say of them; equal values at its edge are all kept. A sample without a value is dropped.
    """

    def __init__(
        self,
        pool: Pool,
        column: str,
        file: str | None = None,
        min: float | None = None,
        max: float | None = None,
        top: float | None = None,
        equals: str | int | float | bool | None = None,
    ) -> None:
        self.column, self.equals, self.min, self.max = column, equals, min, max
        self.values: NDArray[np.float64] | None = None
        _check(column, file, {"min": min, "max": max, "top": top, "equals": equals})
        if file is not None:
            self.values = values_of(Path(file), column, pool, equals)
        if top is not None and self.values is not None:
            edge = highest(self.values, top)
            self.min = edge if min is None or edge > min else min

    @property
    def scores(self) -> Mapping[str, float | None]:
        """The value, or 1 where it equals the wanted one and else 0."""
        limit = self.min if self.min is not None else self.max
        return {self.column: limit if self.equals is None else 1.0}

    def judge(self, sample: Sample) -> Judged:
        """Return whether the sample's value is within bounds."""
        value = self._field(sample) if self.values is None else float(self.values[sample.number])
        if math.isnan(value):
            return Judged(f"{self.column}: no score")
        return Judged(self._reason(value), {self.column: value})

    def _reason(self, value: float) -> str:
        if self.equals is not None:
            return "" if value else f"{self.column}: not {self.equals}"
        if self.min is not None and value < self.min:
            return f"{self.column}: too low"
        return f"{self.column}: too high" if self.max is not None and value > self.max else ""

    def _field(self, sample: Sample) -> float:
        value = sample.fields.get(self.column.removeprefix(FIELD))
        if value is None:
            return math.nan
        if self.equals is not None:
            return float(value == self.equals)
        return float(value) if isinstance(value, int | float) else math.nan


class ClipScore(Column):
    """Keeps samples whose image and caption agree: their cosine is at least `min`, or among the `top` share.

    `scores` is the file that `contrastive data embed` writes, or any of its form. DataComp's baseline keeps the top 0.3
    by OpenAI's ViT-L/14 (https://arxiv.org/abs/2304.14108), LAION's English set at least 0.28 by its ViT-B/32
    (https://arxiv.org/abs/2210.08402). What a score means depends on the model: try it with --sample.
    """

    def __init__(
        self,
        pool: Pool,
        scores: str,
        min: float | None = None,
        top: float | None = None,
        column: str = "clip_score",
    ) -> None:
        if min is None and top is None:
            raise ConfigError("clip_score: set min or top; both are unset")
        super().__init__(pool, column, scores, min=min, top=top)


def highest(values: NDArray[np.float64], share: float) -> float:
    """Return the least of the highest `share` of the values that are numbers; at least one value is among them."""
    known = values[~np.isnan(values)]
    count = max(1, round(share * len(known)))
    return float(np.partition(known, len(known) - count)[len(known) - count])


def _check(name: str, file: str | None, limits: Mapping[str, Any]) -> None:
    if all(limit is None for limit in limits.values()):
        raise ConfigError(f"column {name}: set min, max, top or equals; all are unset")
    if limits["equals"] is not None and any(limits[key] is not None for key in ("min", "max", "top")):
        raise ConfigError(f"column {name}: equals stands alone; remove min, max and top")
    if limits["min"] is not None and limits["max"] is not None and limits["min"] > limits["max"]:
        raise ConfigError(f"column {name}: min {limits['min']:g} is more than max {limits['max']:g}: nothing passes")
    if limits["top"] is not None and not 0 < limits["top"] <= 1:
        raise ConfigError(f"column {name}: top {limits['top']:g} must be more than 0 and at most 1, a share of samples")
    if file is None and not name.startswith(FIELD):
        raise ConfigError(f"column {name}: needs the file that holds it; a field of the samples is {FIELD}{name}")
    if file is None and limits["top"] is not None:
        raise ConfigError(f"column {name}: top needs all values beforehand, from a file; set min for a json field")
