"""What a result is held to: `--fail-under digits/top1=0.6`, and no significant loss against a baseline."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from contrastive.errors import ConfigError, RunError
from contrastive.eval.result import EvalResult
from contrastive.report.metrics import better

SIGNIFICANT = 0.05


class LimitError(RunError):
    """A result is worse than it may be. Exit status 3, so that a script can tell it from a mistake."""

    status = 3


class Limit(NamedTuple):
    """The least value of a metric; `dataset` and `task` empty: of all that have it."""

    dataset: str
    task: str
    metric: str
    least: float

    def __str__(self) -> str:
        """Return it as it was written."""
        return "/".join(part for part in self[:3] if part) + f"={self.least:g}"


def parse_limit(text: str) -> Limit:
    """Return the limit METRIC=VALUE, DATASET/METRIC=VALUE or DATASET/TASK/METRIC=VALUE.

    Raises:
        ConfigError: it is none of these.
    """
    name, _, value = text.partition("=")
    parts = name.split("/")
    try:
        least = float(value)
    except ValueError:
        least = math.nan
    if not 1 <= len(parts) <= 3 or not all(parts) or not math.isfinite(least):
        raise ConfigError(f"--fail-under: {text!r} must be METRIC=VALUE, DATASET/METRIC=VALUE or DATASET/TASK/METRIC=…")
    dataset, task, metric = {1: ["", ""], 2: [parts[0], ""], 3: parts[:2]}[len(parts)] + parts[-1:]
    return Limit(dataset, task, metric, least)


def broken(limits: Sequence[Limit], results: Sequence[EvalResult]) -> list[str]:
    """Return a sentence for each limit that is not held.

    Raises:
        ConfigError: no result has such a metric; a limit that cannot fail would pass for one that is held.
    """
    problems = []
    for limit in limits:
        found = [
            (f"{one.dataset}/{one.task}/{limit.metric}", one.metrics[limit.metric])
            for one in results
            if limit.metric in one.metrics and limit.dataset in ("", one.dataset) and limit.task in ("", one.task)
        ]
        if not found:
            known = dict.fromkeys(f"{one.dataset}/{metric}" for one in results for metric in one.metrics)
            raise ConfigError(f"--fail-under: {limit} is of no result; there are {', '.join(known) or 'none'}")
        problems += [f"{name} is {value:.4f}, under {limit.least:g}" for name, value in found if value < limit.least]
    return problems


def significantly_worse(results: Sequence[EvalResult]) -> list[str]:
    """Return a sentence for each task whose first metric is worse than the baseline's with p < 0.05."""
    problems = []
    for one in results:
        metric = next(iter(one.metrics), "")
        found = one.comparison.get(metric)
        if found is not None and found["delta"] * better(metric) < 0 and found["p"] < SIGNIFICANT:
            problems.append(f"{one.dataset}/{one.task}/{metric} is {found['delta']:+.4f} (p {found['p']:.2g})")
    return problems
