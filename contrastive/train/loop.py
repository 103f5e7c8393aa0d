"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive import distributed
from contrastive.data.rows import Batch
from contrastive.errors import RunError
from contrastive.settings import Config
from contrastive.tracking import ProgressLine, Tracker
from contrastive.train.caching import plan_step
from contrastive.train.optim import learning_rate
from contrastive.train.step import Step

AtStep = Callable[[int], None]


class Stream(Protocol):
    """What the loop asks of a loader."""

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield this rank's batches of steps first_step to last_step - 1."""

    def counts(self) -> dict[str, int]:
        """Return what this rank has counted so far; the same names on all ranks."""


@dataclass
class Pace:
    """Clock of the steps since the last log line: how long they took, and how much of it was waiting for data."""

    world_batch: int
    started: float = field(default_factory=time.perf_counter)
    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    steps: int = 0

    def figures(self) -> dict[str, float]:
        """Return the figures since the last call, and begin again."""
        now = time.perf_counter()
        elapsed = max(now - self.since, 1e-9)
        figures = {
            "samples_per_second": self.steps * self.world_batch / elapsed,
            "data_wait_share": self.waited / elapsed,
            "step_seconds": elapsed / max(self.steps, 1),
            "seconds": now - self.started,
        }
        self.since, self.waited, self.steps = now, 0.0, 0
        return figures

    def pause(self, work: Callable[[], None]) -> None:
        """Run `work` (a save, an evaluation) off the clock."""
        before = time.perf_counter()
        work()
        self.since += time.perf_counter() - before


def total_steps(config: Config) -> int:
    """Return how many whole steps hold `train.total_samples`."""
    return -(-config.train.total_samples // config.data.global_batch_size)


def train(
    config: Config,
    accelerator: Accelerator,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    stream: Stream,
    *,
    tracker: Tracker | None,
    save: AtStep,
    evaluate: AtStep,
) -> None:
    """Train to the end; `save` and `evaluate` are called on all ranks.

    Raises:
        RunError: the loss or its gradient is not finite, or a cached step did not repeat itself.
    """
    size, last = config.data.global_batch_size, total_steps(config)
    pace, batches = Pace(size), stream.batches(0, last)
    run_step = Step(
        accelerator, task, optimizer, plan_step(config, accelerator.num_processes), config.optim.clip_grad_norm
    )
    task.train()
    with ProgressLine(last, accelerator.is_main_process) as progress:
        for step in range(1, last + 1):
            logs, saves, evaluates = due(config, step, last)
            rate = learning_rate(config.optim, (step - 1) * size, config.train.total_samples)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = _next(batches, accelerator.device, pace)
            with _numbered(step):
                terms = run_step(batch, is_read=logs or saves or evaluates)
            pace.steps += 1

            if logs or saves or evaluates:
                # The only place where the host waits for the device, once, and ranks exchange figures, once. What is
                # not finite must not be saved, so a save and an evaluation ask too.
                means = _mean_over_ranks(terms)
                with _numbered(step):
                    run_step.require_exact(means)
                    _require_finite(means, accelerator.optimizer_step_was_skipped)
            if logs:
                seen = {"samples_seen": step * size, "epoch": step * size / stream.epoch_samples}
                counts = _sum_over_ranks(stream.counts(), accelerator.device)
                values = {**seen, **means, "learning_rate": rate, **pace.figures(), **counts}
                if tracker is not None:
                    tracker.record("train", step, values)
                progress.show(step, values)
            if saves:
                pace.pause(lambda at=step: save(at))  # type: ignore[misc]
            if evaluates:
                pace.pause(lambda at=step: evaluate(at))  # type: ignore[misc]
                task.train()


def due(config: Config, step: int, last: int) -> tuple[bool, bool, bool]:
    """Return whether a step is logged, saved and evaluated; the last one is all three."""
    intervals = (config.tracking.log_every_steps, config.train.save_every_steps, config.eval.every_steps)
    logs, saves, evaluates = (step == last or (every is not None and step % every == 0) for every in intervals)
    return logs, saves, evaluates


def _next(batches: Iterator[Batch], device: torch.device, pace: Pace) -> Batch:
    before = time.perf_counter()
    batch = next(batches)
    pace.waited += time.perf_counter() - before
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _mean_over_ranks(terms: dict[str, Tensor]) -> dict[str, float]:
    names = sorted(terms)
    means = distributed.mean_over_ranks(torch.stack([terms[name].float().reshape(()) for name in names]))
    return dict(zip(names, means.tolist(), strict=True))


def _sum_over_ranks(counts: Mapping[str, int], device: torch.device) -> dict[str, int]:
    total = distributed.sum_over_ranks(torch.tensor(list(counts.values()), dtype=torch.int64, device=device))
    return {f"data/{name}": value for name, value in zip(counts, total.tolist(), strict=True)}


@contextmanager
def _numbered(step: int) -> Iterator[None]:
    """Say in which step a run ended."""
    try:
        yield
    except RunError as error:
        raise RunError(f"step {step}: {error}") from error


def _require_finite(values: Mapping[str, float], was_skipped: bool) -> None:
    """Refuse what would leave, or has left, weights that are no numbers; a skipped update (fp16) has changed none."""
    loss, norm = values["loss"], values["grad_norm"]
    rule = "lower optim.learning_rate, lengthen optim.warmup_samples, or set train.precision=fp32"
    if not math.isfinite(loss):
        raise RunError(f"the loss is {loss}; {rule}")
    if not math.isfinite(norm) and not was_skipped:
        raise RunError(f"the norm of the gradients is {norm}; {rule}")
