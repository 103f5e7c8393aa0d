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
from contrastive.config import load
from contrastive.data.loader import Loader
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.quarantine import FILE as QUARANTINE
from contrastive.data.quarantine import Quarantine, Tally
from contrastive.data.rows import Plan, RankRows
from contrastive.data.storage import Storage
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
from contrastive.settings import Config
from contrastive.tracking import CountLine, Tracker, environment
from contrastive.train import optim, state, task
from contrastive.train.caching import plan_step
from contrastive.train.loop import total_steps, train

log = logging.getLogger("contrastive")


@dataclass(frozen=True)
class Prepared:
    """A run that has passed the door: everything a user gave is checked, nothing is trained yet."""

    config: Config
    pool: Pool
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
    storage = Storage(storage_options(config.data))
    with CountLine("indexing shards", distributed.rank() == 0) as progress:
        pool = open_pool(config.data, storage, progress)
    available = pool.order(config.data, config.train.seed).epoch_samples
    if config.data.global_batch_size > available:
        rule = f"is more than the {available:,} samples of data.train; a batch may not hold a sample twice"
        raise ConfigError(f"data.global_batch_size: {config.data.global_batch_size} {rule}")
    Reader(pool, storage, config.data.damaged_shards).probe()
    return Prepared(config, pool, datasets)


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

    _require_one_dataset(prepared.pool)
    run = _Run(prepared, built, teacher, accelerator)
    run.open(precision)
    loader = _loader(prepared, built, teacher, accelerator)
    train(
        config,
        accelerator,
        trained,
        optimizer,
        loader,
        tracker=run.tracker,
        save=run.save,
        evaluate=run.evaluate,
    )
    run.close(time.perf_counter() - started, loader)
    accelerator.end_training()
    return prepared.directory


def _teacher(config: Config, accelerator: Accelerator) -> teachers.Teacher | None:
    """Return the teacher on its device: Accelerate is not told of it, so that it wraps and sends nothing of it."""
    found = teachers.load(config.model)
    return None if found is None else found.to(accelerator.device).to(memory_format=torch.channels_last)


def _loader(
    prepared: Prepared, built: models.Built, teacher: teachers.Teacher | None, accelerator: Accelerator
) -> Loader:
    config, data = prepared.config, prepared.config.data
    crop = data.random_crop
    transform = TrainTransform(built.preprocess, (crop[0], crop[1]) if crop else None, data.decode_scale)
    cut_text = not built.model.reads_padding
    cut_teacher_text = teacher is not None and not teacher.model.reads_padding
    plan = Plan(
        prepared.pool.order(data, config.train.seed),
        config.train.seed,
        data.global_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
    )
    reader = Reader(prepared.pool, Storage(storage_options(data)), data.damaged_shards)
    other = None if teacher is None else teacher.tokenizer
    image_ids = "image_id" in task.needs(config)
    rows = RankRows(reader, transform, built.tokenizer, plan, teacher_tokenizer=other, image_ids=image_ids)
    return Loader(
        rows,
        workers=data.workers,
        pin_memory=accelerator.device.type == "cuda",
        cut_text=cut_text,
        cut_teacher_text=cut_teacher_text,
        quarantine=Quarantine(prepared.directory / QUARANTINE, data.max_bad_share),
        timeout_seconds=data.timeout_seconds,
    )


def _require_one_dataset(pool: Pool) -> None:
    """Refuse ranks that see other samples: their batches would overlap and miss some, and nobody would notice.

    Raises:
        RunError: there are some.
    """
    prints = distributed.gather_objects(pool.fingerprint)
    for rank, found in enumerate(prints):
        if found != prints[0]:
            rule = "copy the shards whole to every machine, and run contrastive data index there"
            raise RunError(f"data: rank {rank} sees other samples than rank 0 ({found[:8]}, {prints[0][:8]}); {rule}")


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
            facts["samples"] = len(self.prepared.pool)
            facts["data_fingerprint"] = self.prepared.pool.fingerprint
            facts["step"] = str(plan_step(self.config, self.accelerator.num_processes))
            state.create(self.directory, self.config, facts)
            self.tracker = Tracker(self.directory, self.config.tracking.tensorboard)
            introduce(self.prepared, facts)
        self.accelerator.wait_for_everyone()

    def save(self, step: int) -> None:
        """Write the checkpoint of `step`."""
        if self.accelerator.is_main_process:
            seen = step * self.config.data.global_batch_size
            data = self.prepared.pool.state(self.config.data, self.config.train.seed, seen).to_dict()
            info = {"step": step, "samples_seen": seen, "run": str(self.directory), "data": data}
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

    def close(self, seconds: float, loader: Loader) -> None:
        """Mark the run as done and write its report."""
        tally = sum(distributed.gather_objects(loader.quarantine.tally()), Tally())
        sources = distributed.gather_objects(loader.sources)
        if self.tracker is None:
            return
        self.tracker.close()
        steps = total_steps(self.config)
        seen = steps * self.config.data.global_batch_size
        figures: dict[str, Any] = {
            "step": steps,
            "samples_seen": seen,
            "seconds": round(seconds, 1),
            "replaced": tally.replaced,
        }
        if tally.replaced:
            log.warning("%s; see %s", tally, self.directory / QUARANTINE)
        if self.config.data.sources:
            counts = [sum(column) for column in zip(*sources, strict=True)]
            figures["sources"] = dict(zip(self.config.data.sources, counts, strict=True))
            log.info(
                "samples by source: %s", ", ".join(f"{k} {n:,} ({n / seen:.1%})" for k, n in figures["sources"].items())
            )
        state.finish(self.directory, self.config, figures)
        try:
            log.info("report: %s", write_report(self.directory))
        except UserError as error:  # the training is done and saved; a missing plot library must not fail it
            log.warning("no report: %s", error)


def introduce(prepared: Prepared, facts: dict[str, Any]) -> None:
    """Log what is about to run: launch, batch, how a step is computed, teacher, data, length and size."""
    config, pool = prepared.config, prepared.pool
    samples = pool.order(config.data, config.train.seed).epoch_samples
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
        *(f"{len(pool):,}", pool.shard_count, pool.unusable),
        *(steps, steps * size / samples, facts["parameters"] / 1e6, prepared.directory),
    )


def _headline(result: EvalResult) -> str:
    name = next(iter(result.metrics))
    return f"{result.dataset} {name} {result.metrics[name]:.3f}"
