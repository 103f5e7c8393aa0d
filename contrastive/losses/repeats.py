"""False negatives: which samples of a global batch are the same thing, by the ids that the loader gives them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.errors import ConfigError
from contrastive.losses.tiles import Tile

Duplicates = Literal["positives", "masked", "negatives"]
Ids = Literal[
    "caption", "image", "label"
]  # what the loader gives every sample; in Python any NAME_id of a batch will do


class Repeats:
    """Which pairs of different samples are the same thing by at least one of K ids; ids are int64 [K, B] of all ranks.

    `count` [B] is how many samples are the same thing as sample j, itself included.
    """

    def __init__(self, ids: Tensor, first: int, rows: int) -> None:
        self.first = first
        numbered = [torch.unique(own, return_inverse=True)[1] for own in ids]
        self.ids = torch.stack(numbered).int()  # narrower, so faster to compare
        self.count = _count(ids)
        self.is_repeated = self.count > 1
        self.rows = self.is_repeated[first : first + rows]
        self.any = bool(self.rows.any())

    def within(self, tile: Tile) -> tuple[Tensor, Tensor] | None:
        """Return (row, column) numbers within the tile of its pairs of repeats, a row's own column left out."""
        if not self.any:
            return None
        rows = self.rows[tile.rows].nonzero()[:, 0]
        columns = self.is_repeated[tile.columns].nonzero()[:, 0]
        row_ids = self.ids[:, rows + (self.first + tile.row)]
        column_ids = self.ids[:, columns + tile.column]
        same = row_ids[0][:, None] == column_ids[0]
        for k in range(1, len(self.ids)):
            same |= row_ids[k][:, None] == column_ids[k]
        row, column = same.nonzero(as_tuple=True)
        row, column = rows[row], columns[column]
        different = row + (self.first + tile.row) != column + tile.column
        return row[different], column[different]


def gather_repeats(batch: Mapping[str, Tensor], names: Sequence[str], counts: list[int]) -> Repeats | None:
    """Return the repeats of the global batch by the ids `NAME_id` int64 [b] of this rank's batch; None without names.

    Raises:
        ConfigError: the batch has no such ids.
    """
    if not names:
        return None
    for name in names:
        if f"{name}_id" not in batch:
            raise ConfigError(f"duplicates by {name} need ids in the batch: {name}_id, int64 [b]")
    own = torch.stack([batch[f"{name}_id"] for name in names], dim=1)
    everyone = distributed.gather_rows(own, counts)
    return Repeats(everyone.T, sum(counts[: distributed.rank()]), len(own))


def _count(ids: Tensor) -> Tensor:
    """Return how many columns of ids [K, B] equal each one in at least one row, [B], by inclusion and exclusion."""
    total = torch.zeros_like(ids[0])
    for size in range(1, len(ids) + 1):
        for chosen in itertools.combinations(range(len(ids)), size):
            _, number, count = torch.unique(ids[list(chosen)], dim=1, return_inverse=True, return_counts=True)
            total += count[number] if size % 2 else -count[number]
    return total


def names_of(duplicates: Duplicates, duplicates_by: str | Sequence[str]) -> list[str]:
    """Return which ids are to be read.

    Raises:
        ValueError: none, though duplicates are not negatives.
    """
    if duplicates == "negatives":
        return []
    if not duplicates_by:
        raise ValueError("duplicates_by: names no ids; give it some, or set duplicates: negatives")
    return [duplicates_by] if isinstance(duplicates_by, str) else list(duplicates_by)


def needs(options: Mapping[str, Any]) -> set[str]:
    """Return the ids that the batch must hold for these options of a loss."""
    return {
        f"{n}_id" for n in names_of(options.get("duplicates", "positives"), options.get("duplicates_by", "caption"))
    }
