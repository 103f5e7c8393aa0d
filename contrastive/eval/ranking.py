"""Exact ranks of the right answer, ties by expectation, and what they give: recall at k and its chance.

A tie is broken by no order of ours: hit@k is the mean over all orders of the tied documents, so that a constant model
scores exactly k / M, and not 0 or 1. Q queries, M documents, E embed_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_SCORES = 1 << 23  # of one chunk: 32 MiB in float32, and as much again for comparisons, whatever Q and M


@dataclass(frozen=True)
class Ranks:
    """For each query, counted over the documents; all [Q].

    `better`: documents above the best positive. `ties`: wrong documents level with it. `level`: positives level with
    it, itself included. `score`: its score.
    """

    better: Tensor
    ties: Tensor
    level: Tensor
    score: Tensor

    @property
    def expected(self) -> Tensor:
        """Return the expected rank of the first positive, from 1; float64 [Q]."""
        return 1 + self.better + self.ties / (self.level + 1.0)

    @property
    def tie_rate(self) -> float:
        """Return the share of queries whose best positive is level with a wrong document."""
        return float((self.ties > 0).double().mean())

    def hits(self, k: int) -> Tensor:
        """Return the probability that a positive is among the first k, over all orders of the ties; float64 [Q]."""
        return expected_hits(self.better, self.ties, self.level, k)


def expected_hits(better: Tensor, ties: Tensor, level: Tensor, k: int) -> Tensor:
    """Return 1 - C(ties, m) / C(ties + level, m) with m = k - better places left; 0 where none is left. Float64."""
    miss = torch.ones(len(better), dtype=torch.float64)
    for place in range(k):  # the chance that each place left goes to a wrong document, one after the other
        left = (ties - place).clamp_min(0) / (ties + level - place).clamp_min(1).double()
        miss = torch.where(better + place < k, miss * left, miss)
    return 1 - miss


def chance_recall(positives: Sequence[Sequence[int]], documents: int, k: int) -> float:
    """Return the mean hit@k of a random order of `documents`, by the number of positives of each query."""
    level = torch.tensor([len(group) for group in positives])
    return float(expected_hits(torch.zeros_like(level), documents - level, level, k).mean())


def rank(queries: Tensor, documents: Tensor, positives: Sequence[Sequence[int]], max_scores: int = MAX_SCORES) -> Ranks:
    """Rank each query's best positive among all documents by dot product in float32, a chunk of queries at a time.

    Args:
        queries: float32 [Q, E].
        documents: float32 [M, E].
        positives: for each query the indices of its right documents, each once, at least one.
        max_scores: scores held at once; changes memory, not the result.

    Equal documents are scored once: a matrix product may round two equal columns differently and break their tie.
    """
    unique, place, copies = _unique_rows(documents)
    rows = min(len(queries), max(1, max_scores // len(unique)))
    space = torch.empty(2, rows, len(unique))  # reused by every chunk: fresh pages cost as much as the comparisons
    chunks = [
        _rank_chunk(queries[at : at + rows], unique, place, copies, positives[at : at + rows], space)
        for at in range(0, len(queries), rows)
    ]
    return Ranks(*(torch.cat(column) for column in zip(*chunks, strict=True)))


def _rank_chunk(
    queries: Tensor, unique: Tensor, place: Tensor, copies: Tensor, positives: Sequence[Sequence[int]], space: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    counts = torch.tensor([len(group) for group in positives])
    row = torch.repeat_interleave(torch.arange(len(positives)), counts)
    column = place[torch.tensor([document for group in positives for document in group])]
    scores, chosen = space[:, : len(queries)]
    torch.mm(queries, unique.T, out=scores)  # [q, U]
    right = scores[row, column]
    best = torch.full((len(queries),), -torch.inf).scatter_reduce(0, row, right, "amax")
    level = torch.zeros(len(queries), dtype=torch.int64).scatter_add(0, row, (right == best[row]).long())
    # No positive is above the best one: all that is above is wrong; all that is level is wrong or counted in `level`.
    # A float32 product counts exactly to 2**24, and is the fastest sum.
    better = (torch.gt(scores, best[:, None], out=chosen) @ copies).round().long()
    ties = (torch.eq(scores, best[:, None], out=chosen) @ copies).round().long() - level
    return better, ties, level, best


def _unique_rows(documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct rows, the place of each document among them, and the copies of each (float32)."""
    rows = np.ascontiguousarray(documents.numpy() + 0.0)  # + 0.0: -0.0 and 0.0 differ in bytes
    keys = rows.view(np.dtype((np.void, rows.strides[0]))).ravel()
    _, first, place, copies = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return torch.from_numpy(rows[first]), torch.from_numpy(place), torch.from_numpy(copies.astype(np.float32))
