"""What an evaluation returns: numbers, each beside its chance level, and what a report draws."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """One task's answer. `chance` has the keys of `metrics`: what a random order of the same answers would score.

    `details` is JSON: `counts` (the sizes a number means nothing without), `gallery`, and the task's own entries.
    """

    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalResult:
    """One task on one dataset; `n` is the number of images, `timing` is in seconds."""

    dataset: str
    task: str
    n: int
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    timing: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self, details: bool = True) -> dict[str, Any]:
        """Return the result as plain JSON values, without the gallery and its like where `details` is False."""
        content = asdict(self)
        if not details:
            del content["details"]
        return content
