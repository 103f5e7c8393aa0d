"""Tensors of one library under the names of another, there and back, bit by bit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from contrastive.errors import ModelError

Kind = Literal["same", "transposed", "thirds", "joined", "number", "plane", "identity"]


@dataclass(frozen=True)
class Pair:
    """Tensors of ours and what they are in theirs.

    `kind`: the same tensor; transposed, [a, b] and [b, a]; thirds, one of ours (the fused query, key and value of
    torch's attention) and three of theirs; joined, several of ours one behind the other, of `shape` rows, and one of
    theirs; a number, [1] of ours and [] of theirs; a plane, [1, a, b] of ours and [a, b] of theirs; identity, nothing
    of ours and a matrix of `shape` of theirs that changes nothing.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    kind: Kind = "same"
    shape: tuple[int, ...] = ()

    @property
    def our_names(self) -> tuple[str, ...]:
        """The names of ours."""
        return self.ours if isinstance(self.ours, tuple) else (self.ours,)

    @property
    def their_names(self) -> tuple[str, ...]:
        """The names of theirs."""
        return self.theirs if isinstance(self.theirs, tuple) else (self.theirs,)


def to_theirs(pairs: Sequence[Pair], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their tensors of ours.

    Raises:
        ModelError: a tensor of ours is in no pair, or is missing.
    """
    _same_names({name for pair in pairs for name in pair.our_names}, set(ours))
    found: dict[str, Tensor] = {}
    for pair in pairs:
        values = _forth(pair, [ours[name] for name in pair.our_names])
        found.update(zip(pair.their_names, (value.contiguous() for value in values), strict=True))
    return found


def to_ours(pairs: Sequence[Pair], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors of theirs.

    Raises:
        ModelError: a tensor of theirs is in no pair, is missing, or is not what ours has no counterpart of.
    """
    _same_names({name for pair in pairs for name in pair.their_names}, set(theirs))
    found: dict[str, Tensor] = {}
    for pair in pairs:
        values = _back(pair, [theirs[name] for name in pair.their_names])
        found.update(zip(pair.our_names, (value.contiguous() for value in values), strict=True))
    return found


def _forth(pair: Pair, values: list[Tensor]) -> Sequence[Tensor]:
    ways: dict[Kind, Callable[[], Sequence[Tensor]]] = {
        "same": lambda: values,
        "transposed": lambda: [values[0].T],
        "thirds": lambda: values[0].chunk(3),
        "joined": lambda: [torch.cat(values)],
        "number": lambda: [values[0].reshape(())],
        "plane": lambda: [values[0][0]],
        "identity": lambda: [torch.eye(*pair.shape)],
    }
    return ways[pair.kind]()


def _back(pair: Pair, values: list[Tensor]) -> Sequence[Tensor]:
    ways: dict[Kind, Callable[[], Sequence[Tensor]]] = {
        "same": lambda: values,
        "transposed": lambda: [values[0].T],
        "thirds": lambda: [torch.cat(values)],
        "joined": lambda: values[0].split(pair.shape),
        "number": lambda: [values[0].reshape(1)],
        "plane": lambda: [values[0][None]],
        "identity": lambda: _nothing(pair, values[0]),
    }
    return ways[pair.kind]()


def _nothing(pair: Pair, value: Tensor) -> Sequence[Tensor]:
    if value.shape != pair.shape or not torch.equal(value, torch.eye(*pair.shape, dtype=value.dtype)):
        raise ModelError(f"weights: {pair.theirs} is no identity; this architecture has no such projection")
    return []


def _same_names(wanted: set[str], found: set[str]) -> None:
    if wanted != found:
        name = min(wanted ^ found)
        what = "is missing" if name in wanted else "has no counterpart"
        raise ModelError(f"weights: {name} {what}; this architecture cannot be converted exactly")
