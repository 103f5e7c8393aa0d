"""Scores of all pairs of a batch, one tile at a time, so that no matrix of them is ever whole in memory.

A rank holds its own images as rows and the texts of all ranks as columns. Time is 2 b B E operations for every product
with a tile, memory that of a tile and of the [b, E] and [B, E] results.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.errors import ConfigError

TILE = {"cpu": (1024, 2048), "cuda": (4096, 4096)}  # rows, columns: wide enough for the products, small for the cache


@dataclass(frozen=True)
class Tile:
    """Rows `row` to `row_end` of a rank against columns `column` to `column_end`; row i's own column is `first` + i."""

    row: int
    row_end: int
    column: int
    column_end: int
    first: int

    @property
    def rows(self) -> slice:
        """The rank's rows."""
        return slice(self.row, self.row_end)

    @property
    def columns(self) -> slice:
        """The columns, of all ranks."""
        return slice(self.column, self.column_end)

    @property
    def own(self) -> slice:
        """The rank's rows whose own column lies in this tile."""
        start = max(self.row, self.column - self.first)
        return slice(start, max(start, min(self.row_end, self.column_end - self.first)))

    def diagonal(self, scores: Tensor) -> Tensor:
        """Return the view of a tile on the pairs of rows `own` with their own columns."""
        rows = slice(self.own.start - self.row, self.own.stop - self.row)
        shift = self.first + self.row - self.column
        return scores[rows, rows.start + shift : rows.stop + shift].diagonal()


class Pairs:
    """The scores scale * <image_i, text_j> of a rank's images [b, E] with everybody's texts [B, E], and what follows.

    Ranks may bring different numbers; `counts` says how many, `first` is the column of row 0, `share` makes a sum over
    rows and columns, of this rank, a value whose mean over ranks is the mean over the batch and both directions.

    Products take float32 operands (float64 for float64 features), on CUDA bfloat16 ones where autocast says so or the
    features are; sums and results are float32 everywhere.
    """

    def __init__(self, image: Tensor, text: Tensor, log_scale: Tensor, tile: tuple[int, int] | None = None) -> None:
        operand, self.dtype = _precision(image)
        self.counts = distributed.row_counts(len(image), image.device)
        self.first = sum(self.counts[: distributed.rank()])
        self.share = len(self.counts) / (2 * sum(self.counts))
        self.image = image.detach().to(operand)
        self.text = distributed.gather_rows(text, self.counts).to(operand)
        self.scale = log_scale.detach().to(self.dtype).exp().reshape(())
        if tile is not None and min(tile) < 1:
            raise ConfigError(f"tile: {tile} must be two numbers of at least 1")
        self.shape = tile or TILE.get(image.device.type, TILE["cpu"])
        self.for_image: Tensor | None = None
        self.for_text: Tensor | None = None
        size = min(self.shape[0], len(image)) * min(self.shape[1], len(self.text))
        self._scratch = torch.empty(size, dtype=self.dtype, device=image.device)
        self._scaled = (-1, image)

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles, those of the same rows together."""
        (height, width), rows, columns = self.shape, len(self.image), len(self.text)
        for row, column in itertools.product(range(0, rows, height), range(0, columns, width)):
            yield Tile(row, min(row + height, rows), column, min(column + width, columns), self.first)

    def scores(self, tile: Tile, *, keep: bool = False) -> Tensor:
        """Return a tile's scores [rows, columns]; unless `keep`, in memory that the next call uses again."""
        height, width = tile.row_end - tile.row, tile.column_end - tile.column
        out = torch.empty_like(self._scratch) if keep else self._scratch
        out = out[: height * width].view(height, width)
        columns = self.text[tile.columns].T
        if self.image.dtype is not self.dtype:
            return torch.mul(torch.mm(self.image[tile.rows], columns, out_dtype=self.dtype), self.scale, out=out)
        if self._scaled[0] != tile.row:
            self._scaled = (tile.row, self.image[tile.rows] * self.scale)
        return torch.mm(self._scaled[1], columns, out=out)

    def want(self, *, image: bool, text: bool) -> None:
        """Say whose gradients `add` is to sum; they begin at zero."""
        self.for_image = torch.zeros_like(self.image, dtype=self.dtype) if image else None
        self.for_text = torch.zeros_like(self.text, dtype=self.dtype) if text else None

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Add a tile's gradient by score to `for_image` and `for_text`, which lack the factor `scale`."""
        gradient = gradient.to(self.image.dtype)
        if self.for_image is not None:
            _add_product(self.for_image[tile.rows], gradient, self.text[tile.columns])
        if self.for_text is not None:
            _add_product(self.for_text[tile.columns], gradient.T, self.image[tile.rows])

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return the gradients of this rank's features and of the logarithm of the scale, from the sums of `add`.

        Those of texts are summed over ranks. All carry `share`; the mean over ranks that DDP and FSDP take of what
        parameters get from them is the gradient of one process with the whole batch.
        """
        total, features = (self.for_text, self.text) if self.for_image is None else (self.for_image, self.image)
        assert total is not None, "want() comes first"
        factor = self.share * self.scale
        by_scale = torch.linalg.vecdot(total, features.to(self.dtype)).double().sum() * factor
        for_text = None if self.for_text is None else distributed.own_rows_of_sum(self.for_text, self.counts)
        for gradient in (self.for_image, for_text):
            if gradient is not None:
                gradient.mul_(factor)
        return self.for_image, for_text, by_scale

    def total_similarity(self) -> Tensor:
        """Return the sum of this rank's b x B cosines, without computing one of them."""
        return torch.dot(self.image.sum(dim=0, dtype=torch.float64), self.text.sum(dim=0, dtype=torch.float64))


def _precision(features: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype of operands and the dtype of sums."""
    if features.dtype == torch.float64:
        return torch.float64, torch.float64
    if features.is_cuda:
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else features.dtype
        if autocast == torch.bfloat16:  # float16 would lose small gradients
            return torch.bfloat16, torch.float32
    return torch.float32, torch.float32


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right, out_dtype=total.dtype))
