"""An exponential moving average of the weights, beside those that are trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The average of `model`'s trained parameters; all else (buffers, frozen towers) is the model's own.

    After step t the average moves by 1 - min(decay, (1 + t) / (10 + t)) towards the weights, so that what it began with
    is soon forgotten, as in TensorFlow's ExponentialMovingAverage. t is the run's: the average has no clock of its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        # Tied weights have several names in a state dict.
        first = {parameter: name for name, parameter in self.trained.items()}
        every = model.named_parameters(remove_duplicate=False)
        self.names = {name: first[parameter] for name, parameter in every if parameter in first}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.trained.values()), 1 - decay)

    @torch.no_grad()
    def begin(self) -> None:
        """Begin at the weights as they are."""
        _copy(self.averages.values(), self.trained.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the model's state dict with the averages in it: a whole model."""
        return {**self.model.state_dict(), **{name: self.averages[first] for name, first in self.names.items()}}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the model compute with the averages; its own weights come back bit by bit."""
        with torch.no_grad():
            own = [parameter.detach().clone() for parameter in self.trained.values()]
            _copy(self.trained.values(), self.averages.values())
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(self.trained.values(), own)


def _copy(targets: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):  # sharded tensors cannot be copied together
        target.copy_(value)
