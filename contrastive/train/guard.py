"""What to do about steps that went wrong: numbers that are not finite, and losses that leap up."""

import logging
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

from contrastive.errors import RunError
from contrastive.settings import TrainConfig
from contrastive.train.vote import Counted

log = logging.getLogger("contrastive")
RULE = "lower optim.learning_rate, lengthen optim.warmup_samples, or set train.precision=fp32"
HISTORY, FEWEST = 100, 20  # losses over which the median is taken, and of how many at least
OVERFLOWS = 50  # in a row: an fp16 loss's scale, which begins at 2^16 and halves at each, has long been below 1
MAX_ROLLBACKS = 3  # without HISTORY good steps between them
Verdict = Literal["good", "bad", "spike"]


class Guard:
    """Judges each step's vote, on all ranks alike. `overflows`: a gradient may overflow, as in fp16 with a scaler."""

    def __init__(self, config: TrainConfig, *, overflows: bool = False) -> None:
        self.config, self.overflows = config, overflows
        self.losses: deque[float] = deque(maxlen=HISTORY)
        self.skipped = self.in_a_row = self.spikes = self.rollbacks = 0

    def judge(self, counted: Counted) -> Verdict:
        """Return what a step was; it is counted. A bad one has changed nothing."""
        if counted.bad_loss or counted.bad_gradient:
            self.skipped += 1
            self.in_a_row += 1
            return "bad"
        self.in_a_row = 0
        median = statistics.median(self.losses) if len(self.losses) >= FEWEST else None
        factor = self.config.spike_factor
        if factor is not None and median is not None and counted.loss > factor * median:
            self.spikes += 1
            log.warning("step %d: the loss is %.4g, the median of the last %d is %.4g",
                        counted.step, counted.loss, len(self.losses), median)  # fmt: skip
            return "spike"
        self.losses.append(counted.loss)
        if len(self.losses) == HISTORY:
            self.rollbacks = 0
        return "good"

    def require_patience(self, counted: Counted, what: str, dump: Callable[[], str]) -> None:
        """End the run at a bad step unless it may be skipped.

        `what` says what is not finite; `dump` writes down the samples and says where.

        Raises:
            RunError: it may not be skipped, or too many were in a row.
        """
        if self.overflows and not counted.bad_loss:  # the scale of an fp16 loss finds its size by overflowing
            if self.in_a_row > OVERFLOWS:
                raise RunError(f"{what}, for the {self.in_a_row}th time in a row; {RULE}").everywhere()
            return
        where = dump()
        if self.config.on_nonfinite == "stop":
            rule = f"{RULE}; train.on_nonfinite=skip goes on without such steps{where}"
            raise RunError(f"{what}; {rule}").everywhere()
        if self.in_a_row > self.config.max_skips:
            often = f"after {self.config.max_skips} steps in a row (train.max_skips)"
            raise RunError(f"{what}, {often}; {RULE}{where}").everywhere()
        log.warning("step %d: %s; skipped, %d so far%s", counted.step, what, self.skipped, where)

    def begin_again(self) -> None:
        """Forget the losses, after the weights were set back.

        Raises:
            RunError: that was done too often to help.
        """
        self.rollbacks += 1
        self.losses.clear()
        if self.rollbacks > MAX_ROLLBACKS:
            rule = "the weights were set back as often without helping"
            raise RunError(f"the loss leaps up again after {MAX_ROLLBACKS} times: {rule}; {RULE}").everywhere()

    def counts(self) -> dict[str, int]:
        """Return what happened so far, for the log."""
        return {name: n for name, n in (("skipped_steps", self.skipped), ("loss_spikes", self.spikes)) if n}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on has to know."""
        return {
            "losses": list(self.losses),
            **{name: getattr(self, name) for name in ("skipped", "in_a_row", "spikes", "rollbacks")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.losses = deque(state["losses"], maxlen=HISTORY)
        for name in ("skipped", "in_a_row", "spikes", "rollbacks"):
            setattr(self, name, int(state[name]))
