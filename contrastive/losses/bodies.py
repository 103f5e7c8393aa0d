"""What is done to every score of a tile, in the way that suits the device.

On a CPU it is done in place, for it costs little beside the products. On a GPU, where reading and writing a tile costs
as much as making it, it is compiled into kernels that read it once.

Scores of -inf are those that are not negatives. Legend: tile [R, C], row [R], column [C].
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Body:
    """Works in place on a tile that holds exponentials after `prepare`."""

    def __init__(self, shift: float, dtype: torch.dtype) -> None:
        self.shift, self.dtype = shift, dtype

    def prepare(self, scores: Tensor) -> Tensor:
        """Return what `sums` and `weigh` take; the scores are gone."""
        scores = scores.to(self.dtype)
        return scores.sub_(self.shift).exp_() if self.shift else scores.exp_()

    def exponentials(self, prepared: Tensor) -> Tensor:
        """Return exp(score - shift)."""
        return prepared

    def sums(self, prepared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of exponentials by row and by column, and each row's highest."""
        return prepared.sum(dim=1), prepared.sum(dim=0), prepared.amax(dim=1)

    def weigh(self, prepared: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return exponential * (row + column); what was prepared is gone."""
        return prepared.mul_(row[:, None] + column)


class FusedBody(Body):
    """Keeps the scores; every method is a compiled kernel or two that take the exponential on the way."""

    def prepare(self, scores: Tensor) -> Tensor:
        """Return the scores themselves."""
        return scores.to(self.dtype)

    def exponentials(self, prepared: Tensor) -> Tensor:
        """Return exp(score - shift)."""
        return (prepared - self.shift).exp_()

    def sums(self, prepared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of exponentials by row and by column, and each row's highest."""
        return _compiled(_sums)(prepared, self._shift(prepared))  # type: ignore[no-any-return]

    def weigh(self, prepared: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return exponential * (row + column)."""
        return _compiled(_weigh)(prepared, self._shift(prepared), row, column)  # type: ignore[no-any-return]

    def _shift(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.shift)  # a number would be compiled in, and it changes with the temperature


def body_for(device: torch.device, shift: float, dtype: torch.dtype) -> Body:
    """Return the body that is best on a device."""
    return (FusedBody if device.type == "cuda" else Body)(shift, dtype)


def _sums(scores: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    exponential = (scores - shift).exp()
    return exponential.sum(dim=1), exponential.sum(dim=0), exponential.amax(dim=1)


def _weigh(scores: Tensor, shift: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (scores - shift).exp() * (row[:, None] + column)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)  # the last tiles are smaller; one kernel serves all
