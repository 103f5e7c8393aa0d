"""Cosines of pairs and of what are no pairs, as histograms and quantiles. N images, M texts, P pairs, E embed_dim."""

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 50
PIECE = 1 << 14  # pairs whose features are gathered at once: 32 MiB a side at E = 512
SAMPLED_IMAGES, SAMPLED_TEXTS, SEED = 512, 2048, 0  # of whose 1,048,576 cosines the figures of wrong pairs are made


class Cosines(NamedTuple):
    """The cosines of all pairs [P], and of a sample of all else [S], which is empty where everything is a pair."""

    positive: Tensor
    negative: Tensor


def cosines(images: Tensor, texts: Tensor, pairs: Tensor) -> Cosines:
    """Return the cosines of `pairs`, int64 [P, 2], and of a seeded sample of the images and texts that are none.

    The sample is all there is up to 512 images and 2,048 texts.
    """
    generator = torch.Generator().manual_seed(SEED)
    rows, columns = (
        torch.randperm(count, generator=generator)[:most].sort().values
        for count, most in ((len(images), SAMPLED_IMAGES), (len(texts), SAMPLED_TEXTS))
    )
    scores = images[rows] @ texts[columns].T
    place = torch.full((len(images),), -1).index_copy(0, rows, torch.arange(len(rows)))[pairs[:, 0]]
    other = torch.full((len(texts),), -1).index_copy(0, columns, torch.arange(len(columns)))[pairs[:, 1]]
    both = (place >= 0) & (other >= 0)
    is_wrong = torch.ones_like(scores, dtype=torch.bool)
    is_wrong[place[both], other[both]] = False
    return Cosines(pair_cosines(images, texts, pairs), scores[is_wrong])


def pair_cosines(images: Tensor, texts: Tensor, pairs: Tensor) -> Tensor:
    """Return the cosine of each pair, float32 [P]."""
    return torch.cat([(images[part[:, 0]] * texts[part[:, 1]]).sum(1) for part in pairs.split(PIECE)])


def histogram(found: Cosines) -> dict[str, list[float]]:
    """Return {edges, positive, negative}: counts in equal bins over the range that has cosines."""
    both = torch.cat(found)
    low, high = float(both.min()), float(both.max())
    if high - low < 1e-6:  # one bin of some width, where all are the same
        low, high = low - 0.005, high + 0.005
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    counts = [torch.histc(side, BINS, low, high) if len(side) else torch.zeros(BINS) for side in found]
    return {"edges": edges.tolist(), "positive": counts[0].long().tolist(), "negative": counts[1].long().tolist()}


def quantiles(values: Tensor) -> dict[str, float]:
    """Return the mean, the median and the quantiles that hold 90 %, of at least one value."""
    chosen = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    # torch.quantile refuses more than 2**24 values.
    found = values[:: -(-len(values) // (1 << 24))].double().quantile(chosen).tolist()
    return {"mean": float(values.double().mean()), **dict(zip(("p5", "p50", "p95"), found, strict=True))}
