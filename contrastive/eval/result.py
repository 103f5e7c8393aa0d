"""What an evaluation returns: numbers, each beside its chance level and its interval, and what a report draws."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from contrastive.eval.bootstrap import Estimate


@dataclass(frozen=True)
class Result:
    """One task's answer. `chance`: what a random order of the same answers would score, where that has a meaning.

    `estimates` compute a metric from the weights of its `clusters` (the images), for intervals and comparisons; where
    all weights are 1, an estimate is the metric. `details` is JSON: `counts` (the sizes a number means nothing
    without), `gallery`, and the task's own entries. `rows`: tables of what every sample got, {table: {column: values}},
    columns of equal length.
    """

    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    clusters: int = 0
    rows: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvalResult:
    """One task on one dataset; `n` is the number of images, `timing` is in seconds, `intervals` hold 95 %.

    `comparison` is with another model on the same images: {metric: {delta, ci95, p, baseline}}. `error` says why there
    are no metrics, where an evaluation was to go on regardless. `unreadable` are the images left out. `rows` is not
    part of the JSON.
    """

    dataset: str
    task: str
    n: int
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    timing: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    comparison: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    unreadable: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict, repr=False)

    def as_dict(self, details: bool = True) -> dict[str, Any]:
        """Return the result as plain JSON values, without the gallery and its like where `details` is False."""
        content = asdict(self)
        del content["rows"]
        for optional in ("error", "unreadable", "intervals", "comparison"):
            if not content[optional]:
                del content[optional]
        if not details:
            del content["details"]
        return content
