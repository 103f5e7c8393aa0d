"""What all ranks agree on at every step, exchanged in one small tensor before the weights change."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive import distributed


@dataclass(frozen=True)
class Asked:
    """What one rank asks all to do: end, for a signal of this number, or save."""

    signal: int = 0
    saves: bool = False


@dataclass(frozen=True)
class Counted:
    """The outcome of a step's vote, the same on all ranks. `loss` is the largest of any rank's, if all are finite."""

    step: int
    bad_loss: bool
    bad_gradient: bool
    signal: int  # number of the signal that asked the run to end, 0 for none
    saves: bool
    loss: float


class Votes:
    """Casts a vote at every step and reads it when that costs no waiting.

    On a CPU a vote is read at its own step. Elsewhere the host runs ahead of the device: it reads a step's vote while
    the device computes the next step, at the same step on every rank, so that ranks go on deciding alike.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.lag = device, 0 if device.type == "cpu" else 1
        self._none = torch.zeros(2, device=device)
        self._waiting: deque[tuple[int, Tensor, torch.Event | None]] = deque()

    def cast(self, step: int, loss: Tensor, norm: Tensor, asked: Asked | None = None) -> Tensor:
        """Exchange one step's votes; return 1.0 where the loss or the gradient's norm of any rank is not finite.

        All stays on the device: the host does not wait.
        """
        loss = loss.detach().float().reshape(1)
        bad_loss, bad_gradient = (~loss.isfinite()).float(), (~norm.detach().isfinite()).float().reshape(1)
        wanted = self._none
        if asked is not None and (asked.signal or asked.saves):
            wanted = torch.tensor([float(asked.signal), float(asked.saves)], device=self.device)
        finite = torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)
        ballot = distributed.max_over_ranks(torch.cat([bad_loss, bad_gradient, wanted, finite]))
        self._waiting.append((step, *self._towards_host(ballot)))
        return ballot[:2].amax()

    def read(self, *, everything: bool) -> list[Counted]:
        """Return the outcomes that are due: of all steps so far or, where the host runs ahead, of all but the last."""
        found = []
        while len(self._waiting) > (0 if everything else self.lag):
            step, host, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            bad_loss, bad_gradient, signal, saves, loss = host.tolist()
            known = math.nan if bad_loss else loss
            found.append(Counted(step, bool(bad_loss), bool(bad_gradient), int(signal), bool(saves), known))
        return found

    def _towards_host(self, ballot: Tensor) -> tuple[Tensor, torch.Event | None]:
        if self.lag == 0:
            return ballot, None
        host = torch.empty(ballot.shape, dtype=ballot.dtype, pin_memory=True)
        host.copy_(ballot, non_blocking=True)
        event = torch.Event(self.device)
        event.record()
        return host, event
