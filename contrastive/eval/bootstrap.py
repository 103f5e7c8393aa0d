"""Intervals and paired comparisons by resampling images, with all that belongs to an image staying together.

Resampling the captions of an image one by one would count one picture as five independent observations and give
intervals that are too narrow (Field and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x). n clusters, b
resamples.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
NEGLIGIBLE = 0.25
MAX_WEIGHTS = 1 << 22  # weights held at once: 32 MiB in float64

# Weights of the clusters, float64 [b, n], of mean 1, to the metric under each row of them, [b].
Estimate = Callable[[Tensor], Tensor]


class Mean:
    """The mean of one value a query; with `group`, the mean over groups of the mean within each (macro average).

    A group without a query, as may happen in a resample, does not count.
    """

    def __init__(self, values: Tensor, cluster: Tensor | None = None, group: Tensor | None = None) -> None:
        """Take values [Q], the cluster of each query (None: its own index) and its group (None: one group)."""
        self.values = values.double()
        self.cluster = torch.arange(len(values)) if cluster is None else cluster
        self.group = group
        size = int(self.cluster.max()) + 1
        self.sums = torch.zeros(size, dtype=torch.float64).index_add(0, self.cluster, self.values)
        self.counts = torch.bincount(self.cluster, minlength=size).double()

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the metric under each row of weights [b, n]."""
        if self.group is None:
            weights = weights[:, : len(self.sums)]  # clusters behind the last query have none
            return (weights @ self.sums) / (weights @ self.counts)
        picked = weights.T[self.cluster]  # [Q, b]
        counts = picked.new_zeros(int(self.group.max()) + 1, len(weights)).index_add_(0, self.group, picked)
        sums = torch.zeros_like(counts).index_add_(0, self.group, picked * self.values[:, None])
        return torch.where(counts > 0, sums / counts.clamp_min(1e-300), torch.nan).nanmean(0)


@dataclass(frozen=True)
class Sampling:
    """How often is resampled, how much of the resamples an interval holds, and the seed of the draws."""

    resamples: int = RESAMPLES
    level: float = LEVEL
    seed: int = SEED


class Comparison(NamedTuple):
    """The difference of two models on the same images, its interval, and the two-sided p-value of no difference."""

    delta: float
    low: float
    high: float
    p: float


def intervals(
    estimates: Mapping[str, Estimate], clusters: int, sampling: Sampling = Sampling()
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each metric (Efron and Tibshirani 1993, section 13.3), less a large bias.

    Resampling raises some metrics by itself (a calibration error, the precision of a model that guesses), so that
    their percentiles may not even hold the value; the mean of the resamples says by how much. A bias below a quarter of
    the standard error is let be (ibid., section 10.3). The interval of a share does not leave 0 to 1.
    """
    found = _resampled(list(estimates.values()), clusters, sampling)  # [m, b]
    plain = torch.ones(1, clusters, dtype=torch.float64)
    shown = {}
    for (name, estimate), row in zip(estimates.items(), found, strict=True):
        bias = float(row.nanmean()) - float(estimate(plain))
        low, high = _percentiles(row, sampling.level)
        shift = bias if abs(bias) > NEGLIGIBLE * float(row[row.isfinite()].std(correction=0)) else 0.0
        is_share = bool(((row >= 0) & (row <= 1) | row.isnan()).all())
        least, most = (0.0, 1.0) if is_share else (-math.inf, math.inf)
        shown[name] = (max(low - shift, least), min(high - shift, most))
    return shown


def compare(
    ours: Mapping[str, Estimate], theirs: Mapping[str, Estimate], clusters: int, sampling: Sampling = Sampling()
) -> dict[str, Comparison]:
    """Return ours - theirs of each metric that both have, both models under the same resamples.

    p is twice the smaller share of resamples on one side of no difference, at least 1 / resamples.
    """
    names = [name for name in ours if name in theirs]
    both = _resampled([table[name] for table in (ours, theirs) for name in names], clusters, sampling)
    plain = torch.ones(1, clusters, dtype=torch.float64)
    found = {}
    for name, drawn in zip(names, both[: len(names)] - both[len(names) :], strict=True):
        below, above = float((drawn <= 0).double().mean()), float((drawn >= 0).double().mean())
        p = min(1.0, max(2 * min(below, above), 1 / sampling.resamples))
        delta = float(ours[name](plain)) - float(theirs[name](plain))
        found[name] = Comparison(delta, *_percentiles(drawn, sampling.level), p)
    return found


def _resampled(estimates: list[Estimate], clusters: int, sampling: Sampling) -> Tensor:
    """Return [m, b]: every estimate under the same resamples."""
    columns = [torch.stack([estimate(weights) for estimate in estimates]) for weights in _weights(clusters, sampling)]
    return torch.cat(columns, dim=1) if estimates else torch.empty(0, sampling.resamples)


def _weights(clusters: int, sampling: Sampling) -> Iterator[Tensor]:
    """Yield how often each cluster is drawn, [b, n] at a time; a row depends on the seed and its number alone."""
    rows = max(1, MAX_WEIGHTS // clusters)
    random = np.random.default_rng(sampling.seed)
    for start in range(0, sampling.resamples, rows):
        drawn = [
            np.bincount(random.integers(clusters, size=clusters), minlength=clusters)
            for _ in range(min(rows, sampling.resamples - start))
        ]
        yield torch.from_numpy(np.stack(drawn).astype(np.float64))


def _percentiles(values: Tensor, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.nanquantile(values.numpy(), [tail, 1 - tail])
    return float(low), float(high)
