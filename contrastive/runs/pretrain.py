"""`pretrain.py`: from a configuration to a run directory."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from contrastive import distributed
from contrastive.config import Config, load
from contrastive.data.loader import Plan, RankBatches, batches
from contrastive.data.shards import Samples, expand, index
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, RunError, UserError
from contrastive.eval import suite
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.result import EvalResult
from contrastive.modalities.image import TrainTransform
from contrastive.models import build as models
from contrastive.models import checkpoint
from contrastive.models import teacher as teachers
from contrastive.report import write_report
from contrastive.runs import machine
from contrastive.runs.evaluate import open_eval_dataset, write_results
from contrastive.tracking import Tracker, environment
from contrastive.train import optim, state, task
from contrastive.train.caching import plan_step
from contrastive.train.loop import total_steps, train

log = logging.getLogger("contrastive")


@dataclass(frozen=True)
class Prepared:
    """A run that has passed the door: everything a user gave is checked, nothing is trained yet."""

    config: Config
    samples: Samples
    datasets: list[EvalDataset]

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.config.run.directory)


def prepare(files: Sequence[str], overrides: Sequence[str]) -> Prepared | None:
    """Check a training run whole, on every process alike; None when it has already finished.

    Raises:
        UserError: something the user gave cannot be used.
    """
    config = load(files, overrides)
    models.check(config.model)
    teachers.check(config.model)
    task.check(config)
    _check_processes(config)
    if plan_step(config, distributed.world_size()).kind == "cached":
        task.check_splits(config)
    _check_crop(config.data.random_crop)
    directory = Path(config.run.directory)
    if state.is_finished(directory, config):
        return None
    if distributed.rank() == 0:  # the others may come when it has been made
        state.refuse_foreign(directory)
    datasets = [open_eval_dataset(path) for path in config.eval.datasets]
    samples = index(expand(config.data.train), config.data.image_key, config.data.caption_key, config.data.label_key)
    if config.data.global_batch_size > len(samples):
        rule = f"is more than the {len(samples):,} samples of data.train; a batch may not hold a sample twice"
        raise ConfigError(f"data.global_batch_size: {config.data.global_batch_size} {rule}")
    Reader(samples, config.data.caption_key, config.data.label_key).probe()
    return Prepared(config, samples, datasets)


def _check_processes(config: Config) -> None:
    size, wanted, batch = distributed.world_size(), config.train.world_size, config.data.global_batch_size
    if wanted is not None and wanted != size:
        rule = "`accelerate launch --cpu` starts one process whatever it is told; see configs/launch/"
        raise RunError(f"train.world_size: {wanted} processes asked for, {size} started; {rule}")
    if batch % size:
        below, above = batch // size * size, -(-batch // size) * size
        either = f"{below} or {above}" if below else str(above)
        raise ConfigError(f"data.global_batch_size: {batch} does not divide over {size} processes; take {either}")


def _check_crop(share: list[float] | None) -> None:
    if share is not None and not (len(share) == 2 and 0 < share[0] <= share[1] <= 1):
        raise ConfigError(f"data.random_crop: {share} must be two shares of the area, 0 < least <= most <= 1")


def pretrain(prepared: Prepared) -> Path:
    """Train, evaluate and report; return the run directory.

    Raises:
        UserError: the data or the numbers turned out to be unusable on the way.
    """
    started = time.perf_counter()
    config = prepared.config
    machine.set_threads(config.train.threads)
    precision = machine.resolve_precision(config.train.precision)
    accelerator = machine.accelerator(precision)
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    built = models.build(config.model)
    teacher = _teacher(config, accelerator)
    module = task.ContrastiveTask(built.model, built.preprocess, config, teacher)
    module.to(memory_format=torch.channels_last)  # convolutions run 2 to 3 times as fast
    if config.train.gradient_checkpointing:
        models.enable_gradient_checkpointing(built.model)
    torch.manual_seed(config.train.seed + 1 + accelerator.process_index)  # dropout differs between ranks
    # The loader and the schedule stay out of prepare(): it would read everything on rank 0, and step once a process.
    trained, optimizer = accelerator.prepare(module, optim.optimizer(module, config.optim))
    if config.train.compile:
        built.model.compile()

    run = _Run(prepared, built, teacher, accelerator)
    run.open(precision)
    train(
        config,
        accelerator,
        trained,
        optimizer,
        _stream(prepared, built, teacher, accelerator),
        samples=len(prepared.samples),
        tracker=run.tracker,
        save=run.save,
        evaluate=run.evaluate,
    )
    run.close(time.perf_counter() - started)
    accelerator.end_training()
    return prepared.directory


def _teacher(config: Config, accelerator: Accelerator) -> teachers.Teacher | None:
    """Return the teacher on its device: Accelerate is not told of it, so that it wraps and sends nothing of it."""
    found = teachers.load(config.model)
    return None if found is None else found.to(accelerator.device).to(memory_format=torch.channels_last)


def _stream(prepared: Prepared, built: models.Built, teacher: teachers.Teacher | None, accelerator: Accelerator) -> Any:
    config = prepared.config
    plan = Plan(config.data.global_batch_size, config.train.seed, accelerator.process_index, accelerator.num_processes)
    crop = config.data.random_crop
    transform = TrainTransform(built.preprocess, (crop[0], crop[1]) if crop else None)
    dataset = RankBatches(
        Reader(prepared.samples, config.data.caption_key, config.data.label_key),
        transform,
        built.tokenizer,
        plan,
        cut_text=not built.model.reads_padding,
        teacher_tokenizer=None if teacher is None else teacher.tokenizer,
        cut_teacher_text=teacher is not None and not teacher.model.reads_padding,
    )
    return batches(dataset, 0, total_steps(config), config.data.workers, accelerator.device.type == "cuda")


class _Run:
    """What happens around the steps: the run directory's files, checkpoints and evaluations."""

    def __init__(
        self, prepared: Prepared, built: models.Built, teacher: teachers.Teacher | None, accelerator: Accelerator
    ) -> None:
        self.prepared, self.built, self.teacher, self.accelerator = prepared, built, teacher, accelerator
        self.config, self.directory = prepared.config, prepared.directory
        self.tracker: Tracker | None = None

    def open(self, precision: str) -> None:
        """Make the directory and say what is about to run; on the main process."""
        if self.accelerator.is_main_process:
            facts = environment(self.accelerator.num_processes, self.accelerator.device.type, precision)
            facts["parameters"] = sum(p.numel() for p in self.built.model.parameters())
            if self.teacher is not None:
                size = sum(p.numel() for p in self.teacher.parameters())
                facts["teacher"] = f"{self.teacher.source}, {size / 1e6:.1f} M parameters"
            facts["samples"] = len(self.prepared.samples)
            facts["step"] = str(plan_step(self.config, self.accelerator.num_processes))
            state.create(self.directory, self.config, facts)
            self.tracker = Tracker(self.directory, self.config.tracking.tensorboard)
            introduce(self.prepared, facts)
        self.accelerator.wait_for_everyone()

    def save(self, step: int) -> None:
        """Write the checkpoint of `step`."""
        if self.accelerator.is_main_process:
            seen = step * self.config.data.global_batch_size
            info = {"step": step, "samples_seen": seen, "run": str(self.directory)}
            checkpoint.save(state.checkpoint_path(self.directory, step), self.built, info)
        self.accelerator.wait_for_everyone()

    def evaluate(self, step: int) -> None:
        """Evaluate on all ranks and record it; the last one is kept with its pictures, for the report."""
        results = suite.evaluate(
            self.built.model,
            self.built.preprocess.evaluation_transform(),
            self.built.tokenizer,
            self.prepared.datasets,
            device=self.accelerator.device,
            batch_size=self.config.eval.batch_size,
            workers=self.config.eval.workers,
        )
        if self.tracker is None or not results:
            return
        for result in results:
            self.tracker.record("eval", step, result.as_dict(details=False), prefix=f"eval/{result.dataset}")
        log.info("step %d  %s", step, "  ".join(_headline(result) for result in results))
        if step == total_steps(self.config):
            write_results(self.directory / "evaluation.json", suite.illustrated(results, self.prepared.datasets))

    def close(self, seconds: float) -> None:
        """Mark the run as done and write its report."""
        if self.tracker is None:
            return
        self.tracker.close()
        steps = total_steps(self.config)
        seen = steps * self.config.data.global_batch_size
        figures = {"step": steps, "samples_seen": seen, "seconds": round(seconds, 1)}
        state.finish(self.directory, self.config, figures)
        try:
            log.info("report: %s", write_report(self.directory))
        except UserError as error:  # the training is done and saved; a missing plot library must not fail it
            log.warning("no report: %s", error)


def introduce(prepared: Prepared, facts: dict[str, Any]) -> None:
    """Log what is about to run: launch, batch, how a step is computed, teacher, data, length and size."""
    config, samples = prepared.config, len(prepared.samples)
    size, steps = config.data.global_batch_size, total_steps(config)
    log.info(
        "world_size=%d device=%s precision=%s threads=%d global_batch_size=%d (%d per process)",
        *(facts["world_size"], facts["device"], facts["precision"], facts["threads"]),
        *(size, size // facts["world_size"]),
    )
    log.info("step: %s", facts["step"])
    if "teacher" in facts:
        log.info("teacher: %s", facts["teacher"])
    log.info(
        "%s samples in %d shards (%d unusable)  %d steps = %.1f epochs  %.1f M parameters  run %s",
        *(f"{samples:,}", len(prepared.samples.shards), prepared.samples.unusable),
        *(steps, steps * size / samples, facts["parameters"] / 1e6, prepared.directory),
    )


def _headline(result: EvalResult) -> str:
    name = next(iter(result.metrics))
    return f"{result.dataset} {name} {result.metrics[name]:.3f}"
