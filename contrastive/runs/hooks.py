"""What happens around the steps of a run: figures, checkpoints, evaluations, and what ends it."""

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from contrastive import distributed
from contrastive.config import to_dict
from contrastive.data.pool import Pool
from contrastive.data.rows import Batch
from contrastive.errors import Preempted, RunError, UserError
from contrastive.eval import suite
from contrastive.eval.bootstrap import Sampling
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Pass
from contrastive.eval.result import EvalResult
from contrastive.files import write_whole
from contrastive.models.build import Built
from contrastive.runs.starting import Start
from contrastive.settings import Config
from contrastive.tracking import Tracker
from contrastive.train.culprits import culprits
from contrastive.train.ema import Ema
from contrastive.train.keeper import Keeper, Told
from contrastive.train.loop import Hooks, Span
from contrastive.train.sharding import unsharded
from contrastive.train.signals import StopRequest
from contrastive.train.task import ContrastiveTask
from contrastive.train.vote import Asked
from contrastive.train.watchdog import STEP, Watchdog

log = logging.getLogger("contrastive")
STOP, BAD_STEPS, RESULTS = "stop", "nonfinite.jsonl", "evaluation.json"


@dataclass(frozen=True)
class Parts:
    """What a launch works with. `task` is unwrapped; `tracker` is None but on rank 0; `code` says what runs."""

    config: Config
    pool: Pool
    datasets: list[EvalDataset]
    built: Built
    task: ContrastiveTask
    ema: Ema | None
    accelerator: Accelerator
    tracker: Tracker | None
    stop: StopRequest
    watchdog: Watchdog
    start: Start
    steps: Span
    code: dict[str, Any]

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.config.run.directory)


class RunHooks(Hooks):
    """The hooks of `pretrain.py`. `keeper` is set once it is made: what it writes is told here."""

    keeper: Keeper

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._began = self._saved = time.monotonic()

    def asks(self) -> Asked:
        """Ask all to end where this process was told to, and to save where rank 0's clock says so."""
        minutes = self.parts.config.train.save_every_minutes
        is_due = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        return Asked(int(self.parts.stop.signal or 0), is_due and self.parts.accelerator.is_main_process)

    def begin(self, stage: str, number: int | None = None) -> None:
        """Tell the watchdog; with a second step behind them, processes no longer have much patience with each other."""
        self.parts.watchdog.beat(stage, number)
        seconds = self.parts.config.train.hang_seconds
        if stage == STEP and number == self.parts.steps.first + 3 and seconds is not None:
            distributed.set_timeout(seconds)

    def restore(self) -> None:
        """Take over the checkpoint at which this launch begins."""
        self.keeper.restore(self.parts.start.step)

    def stepped(self, step: int) -> None:
        """Let the average follow."""
        if self.parts.ema is not None:
            self.parts.ema.update(step)

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the figures of a step down."""
        if self.parts.tracker is not None:
            self.parts.tracker.record("train", step, values)

    def save(self, step: int, *, wait: bool = False) -> None:
        """Write the checkpoint of `step`."""
        self._saved = time.monotonic()
        self.keeper.save(step, wait=wait)

    def tell(self, step: int) -> Told:
        """Return what a checkpoint of `step` says of it."""
        parts, config = self.parts, self.parts.config
        seen = parts.steps.samples_seen(step)
        consumed = parts.start.consumed + seen - parts.steps.seen
        data = parts.pool.state(config.data, config.train.seed, consumed).to_dict()
        where = {"step": step, "samples_seen": seen, "data": data}
        facts = {
            **{**where, "seconds": self.seconds(), "config": to_dict(config), "code": parts.code},
            **{"world_size": parts.accelerator.num_processes, "threads": torch.get_num_threads()},
        }
        return Told({**where, "run": config.run.directory}, facts)

    def seconds(self) -> float:
        """Return how long the run has taken, over all its launches."""
        return self.parts.start.seconds + time.monotonic() - self._began

    def alive(self) -> None:
        """Say that this process waits for the disk and is well."""
        self.parts.watchdog.beat("waiting for a checkpoint")

    def evaluate(self, step: int) -> None:
        """Evaluate on all ranks and record it; the last one is kept with its pictures, for the report."""
        parts = self.parts
        averaged = parts.ema.applied() if parts.ema and parts.config.eval.weights == "ema" else nullcontext()
        try:
            with averaged, self._whole():
                results = suite.evaluate(
                    parts.built.model,
                    parts.built.preprocess.evaluation_transform(),
                    parts.built.tokenizer,
                    parts.datasets,
                    Pass(
                        parts.accelerator.device,
                        parts.config.eval.batch_size,
                        parts.config.eval.workers,
                        progress=self._pulse,
                    ),
                    Sampling() if step == parts.steps.last else None,
                )
        except Exception as error:  # whatever it is, no evaluation is worth a run
            # A rank that goes on while others wait would hang them all.
            if isinstance(error, Preempted) or not getattr(error, "is_everywhere", False):
                raise
            self._evaluation_failed(step, error)
            return
        if not results:
            return
        if parts.tracker is not None:
            self._record(step, results, parts.tracker)
        if parts.config.train.best_metric is not None:
            self.keeper.note_evaluation(step, metric(results, parts.config.train.best_metric))

    def is_evaluated(self, step: int) -> bool:
        """Whether an earlier launch has written the results of `step` down."""
        tracker, wanted = self.parts.tracker, {dataset.spec.name for dataset in self.parts.datasets}
        if tracker is None:
            return distributed.from_main(True)
        done = wanted <= {row.get("dataset") for row in tracker.recorded("eval", step)}
        if step == self.parts.steps.last and wanted:
            done = done and (self.parts.directory / RESULTS).is_file()
        return distributed.from_main(done)

    def bad_step(self, step: int, batch: Batch) -> str:
        """Write down the samples whose features are not finite or, where all are, the whole batch; return where."""
        parts = self.parts
        with self._whole():
            rows = culprits(parts.task, batch, parts.accelerator.autocast())
        numbers = batch["index"].tolist()
        everybody = distributed.gather_objects(([numbers[row] for row in rows], numbers))
        suspects = any(own for own, _ in everybody)
        if parts.accelerator.is_main_process:
            with (parts.directory / BAD_STEPS).open("a") as file:
                for rank, (own, whole) in enumerate(everybody):
                    for number in own if suspects else whole:
                        file.write(json.dumps({"step": step, "rank": rank, **self._sample(number)}) + "\n")
        what = f"{sum(len(own) for own, _ in everybody)} samples without finite features" if suspects else "its samples"
        return f"; {what}: see {parts.directory / BAD_STEPS}"

    def set_back(self, step: int) -> None:
        """Take the weights of the newest checkpoint before `step`; the data go on where they are."""
        found = self.keeper.set_back(step)
        log.warning("step %d: the weights are set back to those of step %d; the data go on", step, found)
        if self.parts.tracker is not None:
            self.parts.tracker.record("rollback", step, {"to_step": found})

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Hold a sharded model whole, with rank 0's running statistics, which FSDP leaves to each rank."""
        if self.parts.config.train.sharding == "full":
            distributed.copy_from_main(self.parts.built.model.buffers())
        with unsharded(self.parts.task):
            yield

    def _pulse(self, what: str, done: int, total: int) -> None:
        """Say that an evaluation is alive, and leave it where any rank was asked to end."""
        self.parts.watchdog.beat(f"evaluation: {what} {done}/{total}")
        if self.parts.stop.signal is not None:
            distributed.tell_everyone(STOP)
        if self.parts.stop.signal is not None or distributed.was_told(STOP):
            raise Preempted(self.parts.stop.signal or signal.SIGTERM)

    def _evaluation_failed(self, step: int, error: Exception) -> None:
        """Say it and go on: the training has lost nothing, and its checkpoints can be evaluated at any time."""
        trace = None if isinstance(error, UserError) else error
        log.warning("step %d: the evaluation failed: %s; the training goes on", step, error, exc_info=trace)
        if self.parts.tracker is not None:
            self.parts.tracker.record("evaluation_failed", step, {"error": str(error)})

    def _record(self, step: int, results: list[EvalResult], tracker: Tracker) -> None:
        weights = {"weights": "ema"} if self.parts.config.eval.weights == "ema" else {}
        for result in results:
            row = {**result.as_dict(details=False), **weights}
            tracker.record("eval", step, row, prefix=f"eval/{result.dataset}")
        log.info("step %d  %s", step, "  ".join(_headline(result) for result in results))
        if step == self.parts.steps.last:
            shown = [result.as_dict() for result in suite.illustrated(results, self.parts.datasets)]
            write_whole(self.parts.directory / RESULTS, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")

    def _sample(self, number: int) -> dict[str, Any]:
        found = self.parts.pool.find(number)
        return {"index": number, "shard": Path(found.location).name, "key": found.row.key}


def metric(results: list[EvalResult], name: str) -> float:
    """Return the metric DATASET/TASK/METRIC of an evaluation.

    Raises:
        RunError: there is none of that name.
    """
    found = {f"{one.dataset}/{one.task}/{key}": value for one in results for key, value in one.metrics.items()}
    if name not in found:
        raise RunError(f"train.best_metric: {name!r} is none of {', '.join(found)}").everywhere()
    return found[name]


def _headline(result: EvalResult) -> str:
    name = next(iter(result.metrics))
    return f"{result.dataset} {name} {result.metrics[name]:.3f}"
