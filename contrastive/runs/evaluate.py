"""`eval_zeroshot.py`: a run or checkpoint on datasets, shown and written."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console

from contrastive.config import load, read_yaml
from contrastive.errors import UserError
from contrastive.eval import suite
from contrastive.eval.datasets import DatasetSpec, EvalDataset, open_dataset
from contrastive.eval.embed import Precision
from contrastive.eval.result import EvalResult
from contrastive.models import checkpoint
from contrastive.runs import machine
from contrastive.train import directory


def evaluate(
    model: str,
    data: Sequence[str],
    *,
    batch_size: int,
    workers: int,
    precision: Precision,
    device: str | None,
    output: str | None,
    weights: checkpoint.Weights = "trained",
) -> list[EvalResult]:
    """Evaluate a run or checkpoint on the datasets that YAMLs describe, or on those of the run; show and write results.

    Raises:
        UserError: the model or a dataset cannot be used.
    """
    folder = checkpoint.find(model)
    datasets = [open_eval_dataset(path) for path in data or _datasets_of_run(folder)]
    process = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    target = torch.device(device) if device else process.device
    machine.set_threads(None)
    loaded = checkpoint.load(folder, target, weights)
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
        console = Console() if sys.stdout.isatty() else Console(width=100)  # a file or a pipe has no width of its own
        what = f"{folder} (moving average)" if weights == "ema" else str(folder)
        console.print(suite.table(results, title=f"{what} on {process.num_processes} process(es)"))
        if output is not None:
            write_results(Path(output), suite.illustrated(results, datasets))
    return results


def open_eval_dataset(path: str) -> EvalDataset:
    """Return the evaluation dataset that a YAML describes."""
    return open_dataset(DatasetSpec.from_dict(read_yaml(path), path))


def write_results(path: Path, results: Sequence[EvalResult]) -> None:
    """Write results with their details as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.as_dict() for result in results], indent=1, ensure_ascii=False) + "\n")


def _datasets_of_run(folder: Path) -> list[str]:
    config = folder.parent.parent / directory.CONFIG
    datasets = load([str(config)]).eval.datasets if config.is_file() else []
    if not datasets:
        raise UserError(f"{folder}: no dataset is named; add --data configs/eval/NAME.yaml")
    return datasets
