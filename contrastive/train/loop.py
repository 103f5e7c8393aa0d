"""The training loop."""

import itertools
import logging
import math
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive import distributed
from contrastive.data.rows import Batch
from contrastive.errors import Preempted, RunError
from contrastive.settings import Config
from contrastive.tracking import ProgressLine
from contrastive.train.caching import plan_step
from contrastive.train.flops import of_training
from contrastive.train.guard import Guard
from contrastive.train.optim import learning_rate
from contrastive.train.pace import Pace, straggler
from contrastive.train.step import Step
from contrastive.train.vote import Asked, Counted
from contrastive.train.watchdog import STEP

log = logging.getLogger("contrastive")


class Stream(Protocol):
    """What the loop asks of a loader."""

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield this rank's batches of steps first_step to last_step - 1."""

    def counts(self) -> dict[str, int]:
        """Return what this rank has counted so far; the same names on all ranks."""


@dataclass(frozen=True)
class Span:
    """The steps of a launch: `first` were taken before it, over `seen` samples; `last` ends the run."""

    size: int
    last: int
    first: int = 0
    seen: int = 0

    def samples_seen(self, step: int) -> int:
        """Return how many samples have been learned from after `step`."""
        return self.seen + (step - self.first) * self.size


def span(config: Config, first: int = 0, seen: int = 0) -> Span:
    """Return the steps that a run has still to take; the last one is whole."""
    size = config.data.global_batch_size
    return Span(size, first + max(0, -(-(config.train.total_samples - seen) // size)), first, seen)


class Hooks:
    """What happens around the steps: nothing, here. Ranks call every method at the same step."""

    def asks(self) -> Asked:
        """Return what this rank asks all to do at the end of the step."""
        return Asked()

    def begin(self, stage: str, number: int | None = None) -> None:
        """Note what is about to happen, and in which step."""

    def restore(self) -> None:
        """Take over what an earlier launch has left; called once everything else has begun."""

    def stepped(self, step: int) -> None:
        """Follow the weights, which `step` has changed."""

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Keep the figures of a logged step."""

    def save(self, step: int, *, wait: bool = False) -> None:
        """Write the checkpoint of `step`, if that was not done; `wait` until it is on disk."""

    def evaluate(self, step: int) -> None:
        """Evaluate the weights of `step`."""

    def is_evaluated(self, step: int) -> bool:
        """Whether an earlier launch has evaluated `step`."""
        return step >= 0

    def bad_step(self, step: int, batch: Batch) -> str:  # noqa: ARG002
        """Write down which samples a step had that was not finite; return where."""
        return ""

    def set_back(self, step: int) -> None:
        """Take the weights of a checkpoint before `step`."""


class Training:
    """The steps of a launch, on all ranks. One that goes on restores its state behind its first batch."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        task: nn.Module,
        optimizer: torch.optim.Optimizer,
        stream: Stream,
        *,
        hooks: Hooks,
        steps: Span,
        guard: Guard,
        pace: Pace | None = None,
    ) -> None:
        self.config, self.accelerator, self.task, self.optimizer = config, accelerator, task, optimizer
        self.stream, self.hooks, self.steps, self.guard = stream, hooks, steps, guard
        self.pace = Pace(steps.size, device=accelerator.device) if pace is None else pace
        self.plan = plan_step(config, accelerator.num_processes)
        self.step = Step(accelerator, task, optimizer, self.plan, config.optim.clip_grad_norm)
        self.hosts = distributed.gather_objects(socket.gethostname())
        self.held: deque[tuple[int, Batch, dict[str, Tensor]]] = deque(maxlen=self.step.votes.lag + 1)
        self.batches = stream.batches(0, steps.last - steps.first)

    def run(self) -> None:
        """Take them.

        Raises:
            RunError: loss or gradient are not finite, a cached step did not repeat itself, or checkpoints failed.
            Preempted: a signal asked for the end; the state is saved.
        """
        first, last = self.steps.first, self.steps.last
        self.task.train()
        with ProgressLine(last, self.accelerator.is_main_process, first) as progress:
            if first:
                self._go_on(first, last)
            if first < last and self.pace.peak_flops is not None:
                self._count_operations(self._peek())
            for number in range(first + 1, last + 1):
                self._advance(number, self._next(), progress)

    def _go_on(self, first: int, last: int) -> None:
        """Restore what an earlier launch has left, and do what it has left undone at its last step."""
        if first < last:
            self.step.rehearse(self._peek())
        self.hooks.restore()
        if due(self.config, first, last)[2] and not self.hooks.is_evaluated(first):
            self._evaluate(first)

    def _advance(self, number: int, batch: Batch, progress: ProgressLine) -> None:
        logs, saves, evaluates = due(self.config, number, self.steps.last)
        is_read = logs or saves or evaluates
        rate = self._set_rate(number)
        self.hooks.begin(STEP, number)
        with _numbered(number):
            terms = self.step(batch, is_read=is_read, number=number, asks=self.hooks.asks)
            self.hooks.stepped(number)
            self.pace.step_done()
            self.held.append((number, batch, terms))
            counted = self.step.votes.read(everything=is_read)
            for one in counted:
                self._judge(one)
            if is_read:
                self._read(number, terms, rate, progress if logs else None)
        if saves or any(one.saves for one in counted):
            self._save(number)
        if signal := max((one.signal for one in counted), default=0):
            self._end(number, signal)
        if evaluates:
            self._evaluate(number)

    def _next(self) -> Batch:
        self.hooks.begin("waiting for data")
        with self.pace.wait():
            batch = next(self.batches)
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def _peek(self) -> Batch:
        batch = self._next()
        self.batches = itertools.chain([batch], self.batches)
        return batch

    def _count_operations(self, batch: Batch) -> None:
        """Tell the pace what a step computes, from as many of its samples as go through the model at once."""
        rows = min(self.plan.image, self.plan.text)
        counted = of_training(self.accelerator.unwrap_model(self.task), {k: v[:rows] for k, v in batch.items()})
        self.pace.flops_per_step = None if counted is None else counted * self.plan.share / rows

    def _set_rate(self, number: int) -> float:
        seen, total = self.steps.samples_seen(number - 1), self.config.train.total_samples
        rate = learning_rate(self.config.optim, seen, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _judge(self, counted: Counted) -> None:
        """Do what the outcome of a step asks for."""
        verdict = self.guard.judge(counted)
        if verdict == "bad":
            batch, terms = next((batch, terms) for number, batch, terms in self.held if number == counted.step)
            with _numbered(counted.step):
                what = _not_finite(terms)
                self.guard.require_patience(counted, what, lambda: self.hooks.bad_step(counted.step, batch))
        if verdict == "spike" and self.config.train.on_spike == "rollback":
            self.guard.begin_again()
            self.pace.pause(lambda: self.hooks.set_back(counted.step))

    def _read(self, number: int, terms: dict[str, Tensor], rate: float, progress: ProgressLine | None) -> None:
        """Exchange the figures of a step, once; log them where there is a progress line to show them on."""
        means = _mean_over_ranks(terms)
        self.step.require_exact(means)
        if progress is None:
            return
        seen, figures = self.steps.samples_seen(number), self.pace.figures()
        slow = straggler(distributed.gather_objects(self.pace.own_seconds), figures["step_seconds"], self.hosts)
        if slow is not None and self.accelerator.is_main_process:
            log.warning("step %d: %s", number, slow)
        values = {
            **{"samples_seen": seen, "epoch": seen / self.stream.epoch_samples},
            **{**means, "learning_rate": rate},
            **{**figures, **self.guard.counts()},
            **_sum_over_ranks(self.stream.counts(), self.accelerator.device),
        }
        self.hooks.record(number, values)
        progress.show(number, values)

    def _save(self, number: int) -> None:
        self.hooks.begin("saving step", number)
        self.pace.pause(lambda: self.hooks.save(number))

    def _evaluate(self, number: int) -> None:
        self.hooks.begin("evaluation of step", number)
        try:
            self.pace.pause(lambda: self.hooks.evaluate(number))
        except Preempted as asked:
            self._end(number, asked.signal)
        self.task.train()

    def _end(self, number: int, signal: int) -> None:
        self.hooks.save(number, wait=True)
        raise Preempted(signal)


def due(config: Config, step: int, last: int) -> tuple[bool, bool, bool]:
    """Return whether a step is logged, saved and evaluated; the last one is all three.

    What is evaluated for the sake of the best checkpoints is saved.
    """
    intervals = (config.tracking.log_every_steps, config.train.save_every_steps, config.eval.every_steps)
    logs, saves, evaluates = (step == last or (every is not None and step % every == 0) for every in intervals)
    return logs, saves or (evaluates and config.train.best_metric is not None), evaluates


def _mean_over_ranks(terms: dict[str, Tensor]) -> dict[str, float]:
    names = sorted(terms)
    means = distributed.mean_over_ranks(torch.stack([terms[name].float().reshape(()) for name in names]))
    return dict(zip(names, means.tolist(), strict=True))


def _sum_over_ranks(counts: Mapping[str, int], device: torch.device) -> dict[str, int]:
    total = distributed.sum_over_ranks(torch.tensor(list(counts.values()), dtype=torch.int64, device=device))
    return {f"data/{name}": value for name, value in zip(counts, total.tolist(), strict=True)}


def _not_finite(terms: Mapping[str, Tensor]) -> str:
    """Return what is wrong with a step, and on which ranks; every rank asks."""
    found = distributed.gather_objects((float(terms["loss"]), float(terms["grad_norm"])))
    for what, values in zip(("loss", "norm of the gradients"), zip(*found, strict=True), strict=True):
        bad = {rank: value for rank, value in enumerate(values) if not math.isfinite(value)}
        if bad:
            ranks = (
                f" on {'all ranks' if len(bad) == len(values) else f'rank {_listed(bad)}'}" if len(values) > 1 else ""
            )
            return f"the {what} is {next(iter(bad.values()))}{ranks}"
    raise AssertionError("a vote found what is not finite")


def _listed(ranks: Iterable[int]) -> str:
    names = [str(rank) for rank in ranks]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


@contextmanager
def _numbered(step: int) -> Iterator[None]:
    """Say in which step a run ended."""
    try:
        yield
    except RunError as error:
        numbered = RunError(f"step {step}: {error}")
        numbered.is_everywhere = error.is_everywhere
        raise numbered from error
