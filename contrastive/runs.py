"""Composition: what a command does, from its configuration to its files. Knows every part."""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from rich.console import Console

from contrastive import distributed
from contrastive.config import Config, load, read_yaml
from contrastive.data.loader import Plan, RankBatches, batches
from contrastive.data.shards import Samples, expand, index
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, RunError, UserError
from contrastive.eval import suite
from contrastive.eval.datasets import DatasetSpec, EvalDataset, open_dataset
from contrastive.eval.result import EvalResult
from contrastive.modalities.image import TrainTransform
from contrastive.models import build as models
from contrastive.models import checkpoint
from contrastive.report import write_report
from contrastive.tracking import Tracker, environment
from contrastive.train import optim, state, task
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
    task.check(config)
    _check_processes(config)
    directory = Path(config.run.directory)
    if state.is_finished(directory, config):
        return None
    if distributed.rank() == 0:  # the others may come when it has been made
        state.refuse_foreign(directory)
    datasets = [open_eval_dataset(path) for path in config.eval.datasets]
    samples = index(expand(config.data.train), config.data.image_key, config.data.caption_key)
    if config.data.global_batch_size > len(samples):
        rule = f"is more than the {len(samples):,} samples of data.train; a batch may not hold a sample twice"
        raise ConfigError(f"data.global_batch_size: {config.data.global_batch_size} {rule}")
    Reader(samples, config.data.caption_key).probe()
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


def open_eval_dataset(path: str) -> EvalDataset:
    """Return the evaluation dataset that a YAML describes."""
    return open_dataset(DatasetSpec.from_dict(read_yaml(path), path))


def pretrain(prepared: Prepared) -> Path:
    """Train, evaluate and report; return the run directory.

    Raises:
        UserError: the data or the numbers turned out to be unusable on the way.
    """
    config, directory = prepared.config, prepared.directory
    _set_threads(config)
    precision = resolve_precision(config.train.precision)
    accelerator = _accelerator(precision)
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    built = models.build(config.model)
    module = task.ContrastiveTask(built.model, built.preprocess, config)
    module.to(memory_format=torch.channels_last)  # convolutions run 2-3 times as fast
    if config.train.gradient_checkpointing:
        models.enable_gradient_checkpointing(built.model)
    torch.manual_seed(config.train.seed + 1 + accelerator.process_index)  # dropout differs between ranks
    optimizer = optim.optimizer(module, config.optim)
    # The loader and the schedule stay out of prepare(): it would read everything on rank 0, and step once a process.
    trained, prepared_optimizer = accelerator.prepare(module, optimizer)
    if config.train.compile:
        built.model.compile()

    tracker = None
    if accelerator.is_main_process:
        facts = environment(accelerator.num_processes, accelerator.device.type, precision)
        parameters = sum(p.numel() for p in module.parameters())
        state.create(directory, config, {**facts, "parameters": parameters, "samples": len(prepared.samples)})
        tracker = Tracker(directory, config.tracking.tensorboard)
        _introduce(prepared, facts, parameters)
    accelerator.wait_for_everyone()

    size = config.data.global_batch_size
    plan = Plan(size, config.train.seed, accelerator.process_index, accelerator.num_processes)
    crop = config.data.random_crop
    transform = TrainTransform(built.preprocess, (crop[0], crop[1]) if crop else None)
    dataset = RankBatches(Reader(prepared.samples, config.data.caption_key), transform, built.tokenizer, plan)
    stream = batches(dataset, 0, total_steps(config), config.data.workers, accelerator.device.type == "cuda")

    def save(step: int) -> None:
        if accelerator.is_main_process:
            info = {"step": step, "samples_seen": step * size, "run": str(directory)}
            checkpoint.save(state.checkpoint_path(directory, step), built, info)
        accelerator.wait_for_everyone()

    def evaluate(step: int) -> None:
        _evaluate_step(prepared, built, accelerator.device, tracker, step)

    started = time.perf_counter()
    train(
        config,
        accelerator,
        trained,
        prepared_optimizer,
        stream,
        samples=len(prepared.samples),
        tracker=tracker,
        save=save,
        evaluate=evaluate,
    )
    if tracker is not None:
        tracker.close()
        seconds = round(time.perf_counter() - started, 1)
        steps = total_steps(config)
        state.finish(directory, config, {"step": steps, "samples_seen": steps * size, "seconds": seconds})
        _report(directory)
    accelerator.end_training()
    return directory


def _evaluate_step(
    prepared: Prepared, built: models.Built, device: torch.device, tracker: Tracker | None, step: int
) -> None:
    settings = prepared.config.eval
    results = suite.evaluate(
        built.model,
        built.preprocess.evaluation_transform(),
        built.tokenizer,
        prepared.datasets,
        device=device,
        batch_size=settings.batch_size,
        workers=settings.workers,
    )
    if tracker is None or not results:
        return
    for result in results:
        tracker.record("eval", step, result.as_dict(details=False), prefix=f"eval/{result.dataset}")
    log.info("step %d  %s", step, "  ".join(_headline(result) for result in results))
    if step == total_steps(prepared.config):
        _write_results(prepared.directory / "evaluation.json", suite.illustrated(results, prepared.datasets))


def _headline(result: EvalResult) -> str:
    name = next(iter(result.metrics))
    return f"{result.dataset} {name} {result.metrics[name]:.3f}"


def evaluate(
    model: str,
    data: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    precision: Literal["float32", "bfloat16"],
    device: str | None,
    output: str | None,
) -> list[EvalResult]:
    """Evaluate a run or checkpoint on the datasets that YAMLs describe, or on those of the run; show and write results.

    Raises:
        UserError: the model or a dataset cannot be used.
    """
    folder = checkpoint.find(model)
    datasets = [open_eval_dataset(path) for path in data or _datasets_of_run(folder)]
    process = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    target = torch.device(device) if device else process.device
    torch.set_num_threads(max(1, _cores() // process.num_processes))
    loaded = checkpoint.load(folder, target)
    console = Console()
    with suite.progress_lines(Console(stderr=True)) as progress:
        results = suite.evaluate(
            loaded.model,
            loaded.transform,
            loaded.tokenizer,
            datasets,
            device=target,
            batch_size=batch_size,
            workers=workers,
            precision=precision,
            progress=progress if process.is_main_process else None,
        )
    if process.is_main_process:
        console.print(suite.table(results, title=f"{folder} on {process.num_processes} process(es)"))
        if output is not None:
            _write_results(Path(output), suite.illustrated(results, datasets))
    return results


def _datasets_of_run(folder: Path) -> list[str]:
    config = folder.parent.parent / state.CONFIG
    datasets = load([str(config)]).eval.datasets if config.is_file() else []
    if not datasets:
        raise UserError(f"{folder}: no dataset is named; add --data configs/eval/NAME.yaml")
    return datasets


def _write_results(path: Path, results: Sequence[EvalResult]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.as_dict() for result in results], indent=1, ensure_ascii=False) + "\n")


def _report(directory: Path) -> None:
    try:
        log.info("report: %s", write_report(directory))
    except UserError as error:  # the training is done and saved; a missing plot library must not fail it
        log.warning("no report: %s", error)


def resolve_precision(wanted: str) -> str:
    """Return accelerate's word for a precision; auto takes bf16 where the processor multiplies it natively."""
    if wanted != "auto":
        return "no" if wanted == "fp32" else wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bf16" if "amx_bf16" in flags or "avx512_bf16" in flags else "no"


def _accelerator(precision: str) -> Accelerator:
    handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        InitProcessGroupKwargs(timeout=timedelta(minutes=10)),
    ]
    return Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available(), kwargs_handlers=handlers)


def _set_threads(config: Config) -> None:
    share = _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
    torch.set_num_threads(config.train.threads or max(1, share))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _introduce(prepared: Prepared, facts: dict[str, Any], parameters: int) -> None:
    config, samples = prepared.config, len(prepared.samples)
    size = config.data.global_batch_size
    log.info(
        "world_size=%d device=%s precision=%s threads=%d global_batch_size=%d (%d per process)",
        *(facts["world_size"], facts["device"], facts["precision"], facts["threads"]),
        *(size, size // facts["world_size"]),
    )
    log.info(
        "%s samples in %d shards (%d unusable)  %d steps = %.1f epochs  %.1f M parameters  run %s",
        f"{samples:,}",
        len(prepared.samples.shards),
        prepared.samples.unusable,
        total_steps(config),
        total_steps(config) * size / samples,
        parameters / 1e6,
        prepared.directory,
    )
