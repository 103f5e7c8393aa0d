"""The training loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive import distributed
from contrastive.config import Config
from contrastive.data.loader import Batch
from contrastive.errors import RunError
from contrastive.tracking import ProgressLine, Tracker
from contrastive.train.optim import learning_rate
from contrastive.train.step import train_step

AtStep = Callable[[int], None]


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
    batches: Iterator[Batch],
    *,
    samples: int,
    tracker: Tracker | None,
    save: AtStep,
    evaluate: AtStep,
) -> None:
    """Train to the end. `samples` is the size of an epoch; `save` and `evaluate` are called on all ranks.

    Raises:
        RunError: the loss is not finite.
    """
    size, last = config.data.global_batch_size, total_steps(config)
    save_every, evaluate_every = config.train.save_every_steps, config.eval.every_steps
    pace = Pace(size)
    task.train()
    with ProgressLine(last, accelerator.is_main_process) as progress:
        for step in range(1, last + 1):
            rate = learning_rate(config.optim, (step - 1) * size, config.train.total_samples)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = _next(batches, accelerator.device, pace)
            terms = train_step(accelerator, task, optimizer, batch, config.optim.clip_grad_norm)
            pace.steps += 1

            if step % config.tracking.log_every_steps == 0 or step == last:
                # The only place where the host waits for the device.
                values = {
                    "samples_seen": step * size,
                    "epoch": step * size / samples,
                    **_mean_over_ranks(terms),
                    "logit_scale": float(accelerator.unwrap_model(task).model.logit_scale.detach().exp()),
                    "learning_rate": rate,
                    **pace.figures(),
                }
                _require_finite(values["loss"], step)
                if tracker is not None:
                    tracker.record("train", step, values)
                progress.show(step, values)
            if step == last or (save_every is not None and step % save_every == 0):
                pace.pause(lambda at=step: save(at))  # type: ignore[misc]
            if step == last or (evaluate_every is not None and step % evaluate_every == 0):
                pace.pause(lambda at=step: evaluate(at))  # type: ignore[misc]
                task.train()


def _next(batches: Iterator[Batch], device: torch.device, pace: Pace) -> Batch:
    before = time.perf_counter()
    batch = next(batches)
    pace.waited += time.perf_counter() - before
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _mean_over_ranks(terms: dict[str, Tensor]) -> dict[str, float]:
    names = sorted(terms)
    means = distributed.mean_over_ranks(torch.stack([terms[name].float().reshape(()) for name in names]))
    return dict(zip(names, means.tolist(), strict=True))


def _require_finite(loss: float, step: int) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        rule = "lower optim.learning_rate, lengthen optim.warmup_samples, or set train.precision=fp32"
        raise RunError(f"step {step}: the loss is {loss}; {rule}")
