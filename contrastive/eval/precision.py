"""mAP@R and R-precision of queries with several right answers, ties by expectation.

R is a query's number of right documents. mAP@R = 1/R sum over ranks i <= R of precision@i where document i is right
(Musgrave et al. 2020, "A Metric Learning Reality Check", section 3.2; for image and text, Chun et al. 2022, "ECCV
Caption"). R-precision is the share of right documents among the first R. Both are means over all orders of tied
documents (McSherry and Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores"), so that a constant model scores what a random order does. q queries, k distinct documents.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

# A query and a score to the documents with exactly that score, and the right ones of them.
Level = Callable[[int, float], tuple[int, int]]


def precision_at_r(
    values: Tensor, copies: Tensor, right: Tensor, counts: Tensor, level: Level | None = None
) -> tuple[Tensor, Tensor]:
    """Return mAP@R and R-precision of each query, float64 [q].

    Args:
        values: the highest scores of distinct documents, falling [q, k]; k > R, or all there are.
        copies: how many documents each of them is [q, k].
        right: how many of those are right [q, k].
        counts: R [q].
        level: asked for ties that may go on behind the k documents; None where these are all.
    """
    last = ((copies.cumsum(1) < counts[:, None]).sum(1)).clamp_max(values.shape[1] - 1)  # where rank R stands
    place = torch.arange(1, values.shape[1] + 1)
    inside = place <= counts[:, None]
    correct = (right * inside).double()
    gain = (correct * correct.cumsum(1) / place).sum(1)
    share = correct.sum(1)
    equal = torch.zeros_like(copies, dtype=torch.bool)
    equal[:, :-1] = values[:, 1:] == values[:, :-1]
    looked_at = torch.arange(values.shape[1]) <= last[:, None]
    for query in (((copies > 1) | equal) & looked_at).any(1).nonzero().flatten().tolist():
        groups = _groups(query, values, copies, right, level)
        gain[query], share[query] = _expected(groups, int(counts[query]))
    return gain / counts, share / counts


def chance_precision(positives: Sequence[Sequence[int]], documents: int) -> tuple[float, float]:
    """Return the mean mAP@R and R-precision of a random order of `documents`."""
    sizes = [len(group) for group in positives]
    found = {size: _expected([(documents, size)], size) for size in set(sizes)}
    gain = sum(found[size][0] / size for size in sizes)
    return gain / len(sizes), sum(found[size][1] / size for size in sizes) / len(sizes)


def _groups(query: int, values: Tensor, copies: Tensor, right: Tensor, level: Level | None) -> list[tuple[int, int]]:
    """Return the documents and right documents of each score, falling; the last is asked of `level`."""
    groups: dict[float, tuple[int, int]] = {}
    for value, n, r in zip(values[query].tolist(), copies[query].tolist(), right[query].tolist(), strict=True):
        all_, good = groups.get(value, (0, 0))
        groups[value] = all_ + n, good + r
    if level is not None:
        lowest = float(values[query, -1])
        groups[lowest] = level(query, lowest)
    return list(groups.values())


def _expected(groups: Iterable[tuple[int, int]], size: int) -> tuple[float, float]:
    """Return R mAP@R and R R-precision for R = `size`.

    In a group of n documents, r of them right, behind N documents with G right ones, the j-th is right with r / n, and
    there G + 1 + (j - 1) (r - 1) / (n - 1) of the N + j are expected to be.
    """
    gain, share, before, good = 0.0, 0.0, 0, 0
    for n, r in groups:
        places = min(n, size - before)
        if places <= 0:
            break
        slope = (r - 1) / (n - 1) if n > 1 else 0.0
        gain += r / n * sum((good + 1 + j * slope) / (before + j + 1) for j in range(places)) if r else 0.0
        share += places * r / n
        before, good = before + n, good + r
    return gain, share
