"""Exact ranks of the right answers, ties by expectation, from scores that are held a chunk at a time.

A tie is broken by no order of ours: hit@k is the mean over all orders of the tied documents, so that a constant model
scores exactly k / M, and not 0 or 1. Q queries, M documents, U distinct documents, E embed_dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrastive.eval.pool import Pool
from contrastive.eval.precision import precision_at_r

MAX_SCORES = 1 << 23  # of one chunk: 32 MiB in float32, and as much again for comparisons, whatever Q and M
BLOCK = 64  # documents of which one maximum is taken: the top of a row lies in the blocks of the highest maxima
ANSWERS = 5  # documents that are kept for each query


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
        return 1 + self.better + self.ties / (self.level + 1).double()

    @property
    def reciprocal(self) -> Tensor:
        """Return the expectation of 1 / rank of the first positive, over all orders of the ties; float64 [Q]."""
        found = 1 / (1 + self.better.double())
        tied = self.ties.nonzero().flatten()
        # The sum below runs over the ties: once for queries that are alike, of which a constant model has only such.
        counts, place = torch.unique(
            torch.stack([self.better, self.ties, self.level], 1)[tied], dim=0, return_inverse=True
        )
        means = torch.tensor([_mean_reciprocal(*row) for row in counts.tolist()], dtype=torch.float64)
        found[tied] = means[place]
        return found

    @property
    def tie_rate(self) -> float:
        """Return the share of queries whose best positive is level with a wrong document."""
        return float((self.ties > 0).double().mean())

    def hits(self, k: int) -> Tensor:
        """Return the probability that a positive is among the first k, over all orders of the ties; float64 [Q]."""
        return expected_hits(self.better, self.ties, self.level, k)

    def replaced(self, queries: Tensor, ranks: "Ranks") -> "Ranks":
        """Return the ranks with those of `queries`, int64 [q], being `ranks`."""
        both = zip(self._columns(), ranks._columns(), strict=True)
        return Ranks(*(old.index_copy(0, queries, new) for old, new in both))

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.better, self.ties, self.level, self.score


class Ranking(NamedTuple):
    """The ranks, and what else one look at the scores gives.

    `documents` [Q, a], `scores` [Q, a]: the highest distinct documents, falling, a = min(ANSWERS, U); of equal ones the
    first. `wrong`, `wrong_score` [Q]: the highest wrong document, -1 where all are right. `map_at_r`, `r_precision`
    [Q]: see `precision`.
    """

    ranks: Ranks
    documents: Tensor
    scores: Tensor
    wrong: Tensor
    wrong_score: Tensor
    map_at_r: Tensor
    r_precision: Tensor


def expected_hits(better: Tensor, ties: Tensor, level: Tensor, k: int) -> Tensor:
    """Return 1 - C(ties, m) / C(ties + level, m) with m = k - better places left; 0 where none is left. Float64."""
    miss = (better >= k).double()
    tied = ((ties > 0) & (better < k)).nonzero().flatten()
    if len(tied):
        miss[tied] = _expected_misses(ties[tied], level[tied], k - better[tied])
    return 1 - miss


def _expected_misses(ties: Tensor, level: Tensor, left: Tensor) -> Tensor:
    """Return C(ties, left) / C(ties + level, left), by whichever product is shorter; the two are equal."""
    all_, places, rights = ties + level, int(left.max()), int(level.max())
    miss = torch.ones(len(ties), dtype=torch.float64)
    for at in range(min(places, rights)):
        if places <= rights:  # each place left goes to a wrong document, one after the other
            share = (ties - at).clamp_min(0) / (all_ - at).clamp_min(1).double()
            counts = at < left
        else:  # each positive falls behind the places left, one after the other
            share = (all_ - left - at).clamp_min(0) / (all_ - at).clamp_min(1).double()
            counts = at < level
        miss = torch.where(counts, miss * share, miss)
    return miss


def _mean_reciprocal(better: int, ties: int, level: int) -> float:
    """Return E[1 / rank] of the first of `level` positives, in random order with `ties` wrong documents."""
    behind = np.arange(ties + 1.0)  # wrong documents of the tie that come before the first positive
    survival = np.cumprod(np.concatenate([[1.0], (ties - behind[:-1]) / (ties + level - behind[:-1])]))
    return float((survival * level / (ties + level - behind) / (better + 1 + behind)).sum())


def chance_recall(positives: Sequence[Sequence[int]], documents: int, k: int) -> float:
    """Return the mean hit@k of a random order of `documents`, by the number of positives of each query."""
    return float(random_ranks(positives, documents).hits(k).mean())


def random_ranks(positives: Sequence[Sequence[int]], documents: int) -> Ranks:
    """Return the ranks where all documents are level: what a random order gives."""
    level = torch.tensor([len(group) for group in positives])
    return Ranks(torch.zeros_like(level), documents - level, level, torch.zeros(len(level)))


def scored(queries: Tensor, documents: Tensor, max_scores: int = MAX_SCORES) -> Iterator[tuple[slice, Tensor]]:
    """Yield which queries, and their dot products with all documents [q, U]; the next chunk overwrites them.

    max_scores: scores held at once; changes memory, not the result.
    """
    rows = min(len(queries), max(1, max_scores // len(documents)))
    space = torch.empty(rows, len(documents))  # reused by every chunk: fresh pages cost as much as the comparisons
    for at in range(0, len(queries), rows):
        part = slice(at, min(at + rows, len(queries)))
        yield part, torch.mm(queries[part], documents.T, out=space[: part.stop - at])


def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores of each row, falling, and their columns [q, k]; of [q, U], k <= U.

    Only the k blocks of the highest maxima are searched: a tenth of the time of searching all.
    """
    blocks = scores.shape[1] // BLOCK
    if blocks < 4 * k:
        values, columns = scores.topk(k, 1)
        return values, columns
    # Block b holds the columns b, b + blocks, …: maxima over rows of a matrix are faster than within them.
    chosen = scores[:, : blocks * BLOCK].unflatten(1, (BLOCK, blocks)).amax(1).topk(k, 1).indices
    columns = (chosen[:, None] + blocks * torch.arange(BLOCK)[:, None]).flatten(1)  # [q, BLOCK * k]
    rest = torch.arange(blocks * BLOCK, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns, rest], 1)
    values, at = scores.gather(1, columns).topk(k, 1)
    return values, columns.gather(1, at)


def rank(queries: Tensor, documents: Tensor, positives: Sequence[Sequence[int]], max_scores: int = MAX_SCORES) -> Ranks:
    """Rank each query's best positive among all documents by dot product in float32, a chunk of queries at a time.

    Args:
        queries: float32 [Q, E].
        documents: float32 [M, E].
        positives: for each query the indices of its right documents, each once, at least one.
        max_scores: scores held at once; changes memory, not the result.
    """
    pool = Pool.of(documents)
    right = _Positives(positives, pool)
    chunks = [
        _ranks(scores, right.scores(part, scores), pool.copies, space)
        for part, scores, space in _with_space(queries, pool, max_scores)
    ]
    return _joined(chunks)


def search(
    queries: Tensor, documents: Tensor, positives: Sequence[Sequence[int]], max_scores: int = MAX_SCORES
) -> Ranking:
    """Rank as `rank` does, and look at the top of every query; see there for the arguments."""
    pool = Pool.of(documents)
    right = _Positives(positives, pool)
    depth = min(len(pool.rows), max(ANSWERS, int(right.counts.max()) + 1))
    ranks, rest = [], []
    for part, scores, space in _with_space(queries, pool, max_scores):
        found = right.scores(part, scores)
        ranks.append(_ranks(scores, found, pool.copies, space))
        rest.append(_top(scores, found, right, part, pool, depth))
    return Ranking(_joined(ranks), *(torch.cat(column) for column in zip(*rest, strict=True)))


class _Positives:
    """The distinct right documents of every query, and how many of its right documents each of them is."""

    def __init__(self, positives: Sequence[Sequence[int]], pool: Pool) -> None:
        self.counts = torch.tensor([len(group) for group in positives])
        self.ends = [0, *self.counts.cumsum(0).tolist()]
        row = torch.repeat_interleave(torch.arange(len(positives)), self.counts)
        column = pool.place[torch.tensor([document for group in positives for document in group])]
        self.row, self.column, self.width = row, column, len(pool.rows)
        self.keys = (row * self.width + column).sort().values

    def scores(self, part: slice, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row within the chunk and the score of every positive of these queries."""
        chosen = slice(self.ends[part.start], self.ends[part.stop])
        row = self.row[chosen] - part.start
        return row, scores[row, self.column[chosen]]

    def among(self, part: slice, columns: Tensor) -> Tensor:
        """Return how many positives of the queries equal the distinct documents `columns` [q, k]."""
        keys = torch.arange(part.start, part.stop)[:, None] * self.width + columns
        return torch.searchsorted(self.keys, keys, right=True) - torch.searchsorted(self.keys, keys)


def _with_space(queries: Tensor, pool: Pool, max_scores: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield each chunk of scores with as much space for what is made of it."""
    space: Tensor | None = None
    for part, scores in scored(queries, pool.rows, max_scores):
        space = torch.empty_like(scores) if space is None else space[: len(scores)]
        yield part, scores, space


def _ranks(scores: Tensor, right: tuple[Tensor, Tensor], copies: Tensor, space: Tensor) -> Ranks:
    row, of_right = right
    best = torch.full((len(scores),), -torch.inf).scatter_reduce(0, row, of_right, "amax")
    level = torch.zeros(len(scores), dtype=torch.int64).scatter_add(0, row, (of_right == best[row]).long())
    # No positive is above the best one: all that is above is wrong; all that is level is wrong or counted in `level`.
    # A float32 product counts exactly to 2**24, and is the fastest sum.
    better = (torch.gt(scores, best[:, None], out=space) @ copies).round().long()
    ties = (torch.eq(scores, best[:, None], out=space) @ copies).round().long() - level
    return Ranks(better, ties, level, best)


def _joined(chunks: Sequence[Ranks]) -> Ranks:
    return Ranks(*(torch.cat(column) for column in zip(*(chunk._columns() for chunk in chunks), strict=True)))


def _top(
    scores: Tensor, found: tuple[Tensor, Tensor], right: _Positives, part: slice, pool: Pool, depth: int
) -> tuple[Tensor, ...]:
    """Return what `Ranking` holds of a chunk beside its ranks; `depth` distinct documents are looked at."""
    values, columns = highest(scores, depth)
    copies, own = pool.copies[columns].long(), right.among(part, columns)

    def level(query: int, value: float) -> tuple[int, int]:
        row, of_right = found
        all_ = float((scores[query] == value).float() @ pool.copies)
        return round(all_), int(((row == query) & (of_right == value)).sum())

    precision = precision_at_r(values, copies, own, right.counts[part], level if depth < len(pool.rows) else None)
    is_wrong = copies > own
    first = is_wrong.int().argmax(1, keepdim=True)  # of the highest, the first
    some = is_wrong.any(1)
    wrong = torch.where(some, pool.first[columns.gather(1, first)[:, 0]], -1)
    wrong_score = torch.where(some, values.gather(1, first)[:, 0], torch.nan)
    top = slice(0, min(ANSWERS, depth))
    return pool.first[columns[:, top]], values[:, top], wrong, wrong_score, *precision
