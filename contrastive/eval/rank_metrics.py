"""The figures of one direction of retrieval, with chance levels and estimates. Q queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from contrastive.eval.bootstrap import Estimate, Mean
from contrastive.eval.precision import chance_precision
from contrastive.eval.ranking import Ranking, Ranks, chance_recall, random_ranks

SLICE = 1 << 21  # weights of queries held at once by `Median`: 16 MiB in float64
# Where the curve of ranks is drawn: close at first, then three a factor of ten.
CURVE = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


@dataclass
class Figures:
    """Metrics by name, their chance levels, and what estimates them from weights of the images."""

    metrics: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def add_mean(self, name: str, values: Tensor, cluster: Tensor, chance: float) -> None:
        """Add the mean of one value a query; `cluster` [Q] is the image that each query belongs to."""
        self.metrics[name] = float(values.mean())
        self.chance[name] = chance
        self.estimates[name] = Mean(values, cluster)

    def add_average(self, name: str, parts: Sequence[str]) -> None:
        """Add the mean of metrics that are there."""
        for table in (self.metrics, self.chance):
            table[name] = sum(table[part] for part in parts) / len(parts)
        self.estimates[name] = Average([self.estimates[part] for part in parts])


class Average:
    """The mean of several estimates."""

    def __init__(self, parts: Sequence[Estimate]) -> None:
        self.parts = tuple(parts)

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the metric under each row of weights [b, n]."""
        return torch.stack([part(weights) for part in self.parts]).mean(0)


class Median:
    """The median of one value a query, a query counting as often as its cluster is drawn; all once: numpy's median."""

    def __init__(self, values: Tensor, cluster: Tensor) -> None:
        """Take values [Q] and the cluster of each query."""
        order = values.argsort(stable=True)
        self.values, self.cluster = values[order].double(), cluster[order]

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the metric under each row of weights [b, n]."""
        rows = max(1, SLICE // len(self.values))
        return torch.cat([self._of(part) for part in weights.split(rows)])

    def _of(self, weights: Tensor) -> Tensor:
        seen = weights[:, self.cluster].cumsum(1)  # [b, Q]
        half = seen[:, -1:] / 2
        # With an even number, the middle is between the last of the lower half and the first of the upper.
        last = len(self.values) - 1
        low = torch.searchsorted(seen, half).clamp_max(last)
        high = torch.searchsorted(seen, half, right=True).clamp_max(last)
        return ((self.values[low] + self.values[high]) / 2)[:, 0]


def add_recall(
    figures: Figures,
    way: str,
    ranks: Ranks,
    positives: Sequence[Sequence[int]],
    documents: int,
    cluster: Tensor,
    recall_k: Sequence[int],
    ending: str = "",
) -> None:
    """Add recall@k of a direction: the share of queries with any right document among the first k."""
    for k in recall_k:
        chance = chance_recall(positives, documents, k)
        figures.add_mean(f"{way}_recall@{k}{ending}", ranks.hits(k), cluster, chance)


def add_ranks(
    figures: Figures, way: str, found: Ranking, positives: Sequence[Sequence[int]], documents: int, cluster: Tensor
) -> None:
    """Add the median and mean rank of the first right document, its mean reciprocal, mAP@R and R-precision.

    Ranks are expected ones where there are ties. The median rank has no chance level: it depends on the draw.
    """
    expected, random = found.ranks.expected, random_ranks(positives, documents)
    figures.metrics[f"{way}_median_rank"] = float(np.median(expected.numpy()))
    figures.estimates[f"{way}_median_rank"] = Median(expected, cluster)
    figures.add_mean(f"{way}_mean_rank", expected, cluster, float(random.expected.mean()))
    figures.add_mean(f"{way}_mrr", found.ranks.reciprocal, cluster, float(random.reciprocal.mean()))
    by_chance = chance_precision(positives, documents)
    figures.add_mean(f"{way}_map_at_r", found.map_at_r, cluster, by_chance[0])
    figures.add_mean(f"{way}_r_precision", found.r_precision, cluster, by_chance[1])


def rank_curve(ranks: Ranks, documents: int) -> Mapping[str, list[float]]:
    """Return recall at rising k, up to the first k that finds all: {k, share}."""
    ks = [k for k in CURVE if k < documents] + [documents]
    curve: dict[str, list[float]] = {"k": [], "share": []}
    for k in ks:
        share = float(ranks.hits(k).mean())
        curve["k"].append(k)
        curve["share"].append(share)
        if share == 1:
            break
    return curve
