"""The two sweeps over the tiles of a symmetric softmax cross-entropy: the sums of exponentials, then the gradients.

Both directions come from one exponential a score, e_ij = exp(s_ij - shift): row totals normalise it over texts, column
totals over images. A score between -57 and 100 is exact in float32; where a total shows that there are others, the
sweep is done again in float64, which holds the logits of any unit vectors at any scale up to 350.

Legend: b rows of this rank, B columns of all ranks, c_i the number of positives of sample i, n_i that of its negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.losses.bodies import body_for
from contrastive.losses.repeats import Repeats
from contrastive.losses.tiles import Pairs, Tile

Places = tuple[Tensor, Tensor]  # row and column numbers within a tile
KEPT = 2**24  # scores: up to here the first sweep keeps its tiles, 64 MiB, and the second need not make them again
HIGHEST = 70.0  # float32 holds exp of it, times the largest batches
LEAST = 1e-30  # a total below this times B may lack float32's smallest terms


@dataclass(frozen=True)
class Targets:
    """What the softmax is to be, see `contrastive.losses.infonce.InfoNCE`."""

    repeats: Repeats | None
    masked: bool  # repeats are left out instead of being positives
    smoothing: float
    hardness: float


@dataclass
class Sums:
    """What the first sweep finds. Columns are this rank's share until `solve` has summed them."""

    row: Tensor  # [3, b]: of positives, of negatives (times their hardness), of the hardness of negatives
    column: Tensor  # [3, B]
    target: Tensor  # sum of target * score over this rank's rows, both directions
    own: Tensor  # sum of the scores of this rank's pairs
    repeats: Tensor  # sum of the scores of repeats
    best: Tensor  # [2, b]: the highest exponential of a positive, of a negative


@dataclass
class Exponentials:
    """A tile of exp(score - shift), taken apart: `negatives` has none where `own` and `repeats` belong."""

    negatives: Tensor  # [rows, columns], as the body prepared them
    own: Tensor  # of rows `tile.own`
    at: Places | None  # of repeats
    repeats: Tensor | None


class Direction(NamedTuple):
    """What the second sweep needs to know of the softmax over texts of each image, or over images of each text, [n]."""

    inverse: Tensor  # 1 / total
    positive: Tensor  # sum of the exponentials of positives
    negative: Tensor  # the same of negatives; the total is both
    weight: Tensor  # what the exponential of a negative is multiplied by
    alone: Tensor  # what its hardness alone is

    def part(self, where: slice | Tensor) -> "Direction":
        """Return the same of some samples."""
        return Direction(*(x[where] for x in self))

    def pull(self, exponential: Tensor, target: Tensor) -> Tensor:
        """Return softmax minus target of positives, in an order that keeps it exact where the softmax is nearly one."""
        return ((exponential - target * self.positive) - target * self.negative) * self.inverse


class SymmetricSoftmax:
    """Value and gradients of the loss over `pairs`; `shift` keeps the exponentials in range."""

    def __init__(self, pairs: Pairs, targets: Targets, shift: float) -> None:
        self.pairs, self.targets, self.shift = pairs, targets, shift
        device, everyone = pairs.image.device, len(pairs.text)
        self.own = slice(pairs.first, pairs.first + len(pairs.image))
        ones = torch.ones(everyone, dtype=torch.float64, device=device)
        count = ones if targets.repeats is None else targets.repeats.count.double()
        self.positives = ones if targets.masked else count  # [B]
        self.negatives = everyone - count  # [B]
        self.kept: dict[Tile, Exponentials] = {}
        self._set_dtype(pairs.dtype)

    def _set_dtype(self, dtype: torch.dtype) -> None:
        """Take exponentials in `dtype` from now on, and targets: of one positive, and of every answer by smoothing."""
        self.dtype = dtype
        self.body = body_for(self.pairs.image.device, self.shift, dtype)
        self.share = ((1 - self.targets.smoothing) / self.positives).to(dtype)  # [B]
        self.spread = (self.targets.smoothing / (self.positives + self.negatives)).to(dtype)  # [B]

    def sums(self, *, keep: bool) -> Sums:
        """Run the first sweep; `keep` its tiles, if they are few, for `gradients`."""
        pairs = self.pairs
        row, column = (torch.zeros(3, len(x), dtype=self.dtype, device=x.device) for x in (pairs.image, pairs.text))
        target, own, repeats = torch.zeros(3, dtype=torch.float64, device=row.device)
        found = Sums(row, column, target, own, repeats, torch.zeros_like(row[:2]))
        keep = keep and len(pairs.image) * len(pairs.text) <= KEPT
        self.kept.clear()
        for tile in pairs.tiles():
            scores = pairs.scores(tile, keep=keep)
            at = self._repeats(tile)
            self._score_targets(tile, scores, at, found)
            parts = self._exponentials(tile, scores, at)
            self._add_up(tile, parts, found)
            if keep:
                self.kept[tile] = parts
        return found

    def widen(self) -> None:
        """Take exponentials in float64 from now on."""
        self._set_dtype(torch.float64)

    def totals(self, sums: Tensor, which: slice) -> Tensor:
        """Return the denominators [n] of sums [3, n] of the samples `which`."""
        if not self.targets.hardness:
            return sums[0] + sums[1]
        n = self.negatives[which].to(sums.dtype)
        return sums[0] + torch.where(n > 0, n * sums[1] / sums[2], 0)

    def gradients(self, sums: Sums) -> None:
        """Run the second sweep: add every tile's gradient, times 2 B, to `pairs`."""
        row, column = self._direction(sums.row, self.own), self._direction(sums.column, slice(None))
        for tile in self.pairs.tiles():
            parts = self.kept.pop(tile, None)
            if parts is None:
                parts = self._exponentials(tile, self.pairs.scores(tile), self._repeats(tile))
            self.pairs.add(tile, self._gradient(tile, parts, row.part(tile.rows), column.part(tile.columns)))

    def _score_targets(self, tile: Tile, scores: Tensor, at: Places | None, found: Sums) -> None:
        """Add target * score of the tile: positives in equal shares, smoothing over all that are not left out."""
        own, share = tile.diagonal(scores), self._share(tile)
        found.own += own.sum(dtype=torch.float64)
        found.target += (own.double() * share[0][_within(tile)]).sum() * 2
        if at is not None:
            again = scores[at]
            found.repeats += again.sum(dtype=torch.float64)
            if not self.targets.masked:
                found.target += (again.double() * (share[0][at[0]] + share[1][at[1]])).sum()
        if self.targets.smoothing:
            for_row, for_column = self._smooth(tile)
            found.target += (scores.sum(dim=1) * for_row).sum() + (scores.sum(dim=0) * for_column).sum()
            if at is not None and self.targets.masked:
                found.target -= (again * (for_row[at[0]] + for_column[at[1]])).sum()

    def _exponentials(self, tile: Tile, scores: Tensor, at: Places | None) -> Exponentials:
        diagonal, repeats = tile.diagonal(scores), None
        own = self._exponential(diagonal)
        diagonal.fill_(-torch.inf)
        if at is not None:
            repeats = None if self.targets.masked else self._exponential(scores[at])
            scores[at] = -torch.inf
        return Exponentials(self.body.prepare(scores), own, at, repeats)

    def _exponential(self, scores: Tensor) -> Tensor:
        return (scores.to(self.dtype) - self.shift).exp_()

    def _add_up(self, tile: Tile, parts: Exponentials, found: Sums) -> None:
        row, column = found.row[:, tile.rows], found.column[:, tile.columns]
        inside, diagonal = _within(tile), _within_columns(tile)
        row[0, inside] += parts.own
        column[0, diagonal] += parts.own
        best = found.best[:, tile.rows]
        best[0, inside] = torch.maximum(best[0, inside], parts.own)
        if parts.at is not None and parts.repeats is not None:
            row[0].index_add_(0, parts.at[0], parts.repeats)
            column[0].index_add_(0, parts.at[1], parts.repeats)
            best[0].scatter_reduce_(0, parts.at[0], parts.repeats, "amax")
        by_row, by_column, highest = self.body.sums(parts.negatives)
        torch.maximum(best[1], highest, out=best[1])
        if self.targets.hardness:
            negatives = self.body.exponentials(parts.negatives)
            hardness = negatives.pow(self.targets.hardness)
            row[2] += hardness.sum(dim=1)
            column[2] += hardness.sum(dim=0)
            hardness *= negatives
            by_row, by_column = hardness.sum(dim=1), hardness.sum(dim=0)
        row[1] += by_row
        column[1] += by_column

    def _direction(self, sums: Tensor, which: slice) -> Direction:
        total = self.totals(sums, which)
        weight = 1 / total
        if not self.targets.hardness:
            return Direction(weight, sums[0], sums[1], weight, weight)
        n, beta = self.negatives[which].to(sums.dtype), self.targets.hardness
        mean = torch.where(n > 0, n / sums[2], 0)
        negative = mean * sums[1]
        alone = torch.where(n > 0, beta * negative / (sums[2] * total), 0)
        return Direction(weight, sums[0], negative, (1 + beta) * mean * weight, alone)

    def _gradient(self, tile: Tile, parts: Exponentials, row: Direction, column: Direction) -> Tensor:
        """Return softmax minus target, of both directions together."""
        row_share, column_share = self._share(tile)
        for_row, for_column = self._smooth(tile)
        if self.targets.hardness:
            found = self.body.exponentials(parts.negatives)
            hardness = found.pow(self.targets.hardness)
            weight, alone = row.weight[:, None] + column.weight, row.alone[:, None] + column.alone
            found = hardness.mul_(found.mul_(weight).sub_(alone))
        else:
            found = self.body.weigh(parts.negatives, row.weight, column.weight)
        if self.targets.smoothing:
            found.sub_(for_row[:, None] + for_column)
        inside, diagonal = _within(tile), _within_columns(tile)
        own = row.part(inside).pull(parts.own, row_share[inside])
        own += column.part(diagonal).pull(parts.own, column_share[diagonal])
        tile.diagonal(found).copy_(own - for_row[inside] - for_column[diagonal])
        if parts.at is not None:
            i, j = parts.at
            if parts.repeats is None:
                found[parts.at] = 0
            else:
                again = row.part(i).pull(parts.repeats, row_share[i])
                again += column.part(j).pull(parts.repeats, column_share[j])
                found[parts.at] = again - for_row[i] - for_column[j]
        return found

    def _share(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Return the target of one positive of each row and of each column of the tile."""
        return self.share[self.own][tile.rows], self.share[tile.columns]

    def _smooth(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Return what label smoothing adds to every target of each row and of each column of the tile."""
        return self.spread[self.own][tile.rows], self.spread[tile.columns]

    def _repeats(self, tile: Tile) -> Places | None:
        return None if self.targets.repeats is None else self.targets.repeats.within(tile)


def _within(tile: Tile) -> slice:
    return slice(tile.own.start - tile.row, tile.own.stop - tile.row)


def _within_columns(tile: Tile) -> slice:
    return slice(tile.own.start + tile.first - tile.column, tile.own.stop + tile.first - tile.column)


def solve(softmax: SymmetricSoftmax, *, keep: bool) -> tuple[Sums, bool]:
    """Run the first sweep, with the columns summed over ranks, again in float64 where float32 does not hold it.

    Also returns whether every total is a finite number above zero; where it is not, it is not on any rank.
    """
    found = softmax.sums(keep=keep)
    found.column = distributed.sum_over_ranks(found.column)
    rows, columns = _hold(softmax, found)
    if rows and columns:
        return found, True
    softmax.widen()
    again = softmax.sums(keep=keep)
    # Only a rank's own rows may have failed; the columns fail on all ranks or on none.
    again.column = found.column.double() if columns else distributed.sum_over_ranks(again.column)
    return again, all(_hold(softmax, again))


def _hold(softmax: SymmetricSoftmax, found: Sums) -> tuple[bool, bool]:
    """Whether the rows' and the columns' totals can be trusted."""
    parts = []
    for sums, which in ((found.row, softmax.own), (found.column, slice(None))):
        total = softmax.totals(sums, which)
        has_negatives = softmax.negatives[which] > 0
        hard = [torch.where(has_negatives, x, total) for x in sums[1:]] if softmax.targets.hardness else []
        parts.append(torch.stack([total, *hard]))
    rows, columns = holds(parts, len(softmax.pairs.text))
    return rows, columns


def holds(totals: Sequence[Tensor], everyone: int) -> list[bool]:
    """Whether sums of `everyone` exponentials are finite and lost none to underflow. The host waits for the answer."""
    checks = []
    for total in totals:
        least = torch.finfo(torch.float64).tiny if total.dtype == torch.float64 else LEAST * everyone
        checks.append((total.isfinite() & (total >= least)).all())
    return [bool(check) for check in torch.stack(checks).tolist()]
