"""The door of a training run: everything a user gave is checked before anything is trained."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive import distributed
from contrastive.config import load
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, RunError
from contrastive.eval import suite
from contrastive.eval.datasets import EvalDataset
from contrastive.models import beginning
from contrastive.models import build as models
from contrastive.models import teacher as teachers
from contrastive.models.build import Built
from contrastive.runs.eval_data import open_eval_dataset
from contrastive.settings import Config
from contrastive.tracking import CountLine, check_trackers
from contrastive.train import directory as run_directory
from contrastive.train import task
from contrastive.train.caching import plan_step
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.loop import Span

log = logging.getLogger("contrastive")


@dataclass(frozen=True)
class Prepared:
    """A run that has passed the door: everything a user gave is checked, nothing is trained yet.

    `begun` is the model of `model.checkpoint`, of a run that has no checkpoint of its own.
    """

    config: Config
    pool: Pool
    datasets: list[EvalDataset]
    begun: Built | None = None

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
    beginning.check(config.model)
    teachers.check(config.model)
    task.check(config)
    _check_processes(config)
    if plan_step(config, distributed.world_size()).kind == "cached":
        task.check_splits(config)
    _check_crop(config.data.random_crop)
    if config.train.sharding == "full" and config.train.precision == "fp16":
        rule = "loses its scale where gradients are cut over processes; take bf16 or fp32"
        raise ConfigError(f"train.precision: fp16 {rule}, or train.sharding=none")
    check_trackers(config.tracking.trackers)
    directory = Path(config.run.directory)
    if run_directory.is_finished(directory, config):
        return None
    if distributed.rank() == 0:  # the others may come when it has been made
        run_directory.require_usable(directory, config)
        run_directory.require_writable(directory)
    datasets = [open_eval_dataset(path) for path in config.eval.datasets]
    _check_evaluation(config, datasets)
    begun = _begun(config)
    storage = Storage(storage_options(config.data))
    with CountLine("indexing shards", distributed.rank() == 0) as progress:
        pool = open_pool(config.data, storage, progress)
    available = pool.order(config.data, config.train.seed).epoch_samples
    if config.data.global_batch_size > available:
        rule = f"is more than the {available:,} samples of data.train; a batch may not hold a sample twice"
        raise ConfigError(f"data.global_batch_size: {config.data.global_batch_size} {rule}")
    Reader(pool, storage, config.data.damaged_shards).probe()
    return Prepared(config, pool, datasets, begun)


def _begun(config: Config) -> Built | None:
    """Return the model of `model.checkpoint`; a run that has checkpoints of its own never reads it again."""
    if not config.model.checkpoint or Checkpoints(Path(config.run.directory), None).steps():
        return None
    return beginning.begin(config.model)


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


def _check_evaluation(config: Config, datasets: Sequence[EvalDataset]) -> None:
    if config.eval.weights == "ema" and config.train.ema_decay is None:
        raise ConfigError("eval.weights: ema needs train.ema_decay, e.g. 0.9999")
    suite.check(datasets)
    name = config.train.best_metric
    if name is None:
        return
    tasks = [f"{dataset.spec.name}/{one['name']}" for dataset in datasets for one in dataset.tasks]
    if not any(name.startswith(f"{one}/") for one in tasks):
        rule = f"must be DATASET/TASK/METRIC of eval.datasets: {', '.join(tasks) or 'there are none'}"
        raise ConfigError(f"train.best_metric: {name!r} {rule}")


def introduce(prepared: Prepared, facts: dict[str, Any], steps: Span) -> None:
    """Log what is about to run: launch, batch, how a step is computed, teacher, data, length and size."""
    config, pool = prepared.config, prepared.pool
    samples = pool.order(config.data, config.train.seed).epoch_samples
    size, last = config.data.global_batch_size, steps.last
    log.info(
        "world_size=%d device=%s precision=%s threads=%d global_batch_size=%d (%d per process)",
        *(facts["world_size"], facts["device"], facts["precision"], facts["threads"]),
        *(size, size // facts["world_size"]),
    )
    log.info("step: %s", facts["step"])
    if prepared.begun is not None:
        log.info("begins with %s", beginning.origin(config.model))
    if "teacher" in facts:
        log.info("teacher: %s", facts["teacher"])
    log.info(
        "%s samples in %d shards (%d unusable)  %d steps = %.1f epochs  %.1f M parameters  run %s",
        *(f"{len(pool):,}", pool.shard_count, pool.unusable),
        *(last, steps.samples_seen(last) / samples, facts["parameters"] / 1e6, prepared.directory),
    )
