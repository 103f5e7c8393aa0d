"""Evaluate one model on datasets, an embedding pass each that all tasks read; for the training loop and the command."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from contrastive import registry
from contrastive.errors import ConfigError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import ContrastiveModel, Embeddings, Precision, Progress, Tokenizer, Transform, embed
from contrastive.eval.gallery import with_pictures
from contrastive.eval.result import EvalResult, Result

Task = Callable[[Embeddings], Result]


def evaluate(
    model: ContrastiveModel,
    transform: Transform,
    tokenizer: Tokenizer,
    datasets: Sequence[EvalDataset],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> list[EvalResult]:
    """Return one result for each task of each dataset; every process must call it, and every process gets all of it.

    See `embed.embed` for the arguments and for what else is refused.

    Raises:
        ConfigError: two datasets of one name, or an unknown task.
    """
    names = [dataset.spec.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{names.count(name)} datasets are named {name!r}; give each its own name")
    tasks = [[(name, _build(name, dataset)) for name in dataset.tasks] for dataset in datasets]
    results = []
    for dataset, named_tasks in zip(datasets, tasks, strict=True):
        embeddings = embed(
            model,
            transform,
            tokenizer,
            dataset,
            device=device,
            batch_size=batch_size,
            workers=workers,
            precision=precision,
            progress=progress,
        )
        for name, task in named_tasks:
            start = time.perf_counter()
            result: Result = task(embeddings)
            timing = {"embed_seconds": embeddings.seconds, "score_seconds": time.perf_counter() - start}
            results.append(
                EvalResult(
                    dataset=dataset.spec.name,
                    task=name,
                    n=len(dataset),
                    metrics=result.metrics,
                    chance=result.chance,
                    timing=timing,
                    warnings=embeddings.warnings,
                    details=result.details,
                )
            )
    return results


def _build(name: str, dataset: EvalDataset) -> Task:
    task: Task = registry.build(registry.EVALUATORS, {"name": name}, f"dataset {dataset.spec.name}: tasks")
    return task


def illustrated(results: Sequence[EvalResult], datasets: Sequence[EvalDataset]) -> list[EvalResult]:
    """Return the results with the pictures of their galleries inside, as a report needs them; for one process."""
    by_name = {dataset.spec.name: dataset for dataset in datasets}
    return [
        replace(result, details={**result.details, "gallery": with_pictures(gallery, by_name[result.dataset])})
        if (gallery := result.details.get("gallery"))
        else result
        for result in results
    ]


def table(results: Sequence[EvalResult], title: str = "Evaluation") -> Table:
    """Return a rich table: a row a metric, with its chance level and the number of images and of answers."""
    grid = Table(title=title)
    for heading in ("dataset", "task", "metric"):
        grid.add_column(heading, overflow="fold")  # a cut name would be another metric's
    for heading in ("value", "chance", "images", "answers"):
        grid.add_column(heading, justify="right")
    for result in results:
        counts = result.details.get("counts", {})
        for position, (metric, value) in enumerate(result.metrics.items()):
            names = (result.dataset, result.task) if position == 0 else ("", "")
            chance = result.chance.get(metric)
            answers = counts.get("classes", counts.get("texts")) if not metric.startswith("text_to_image") else result.n
            grid.add_row(
                *names,
                metric,
                f"{value:.4f}",
                "" if chance is None else f"{chance:.4f}",
                f"{result.n:,}",
                "" if answers is None else f"{answers:,}",
                end_section=position == len(result.metrics) - 1,
            )
    notes = [f"warning: {warning}" for warning in dict.fromkeys(w for result in results for w in result.warnings)]
    grid.caption = "\n".join(notes) or None
    return grid


@contextmanager
def progress_lines(console: Console) -> Iterator[Progress]:
    """Show a rich progress line for what `evaluate` is doing; pass the yielded function to it as `progress`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in shown:
                shown[what] = bars.add_task(what, total=total)
            bars.update(shown[what], completed=done)

        yield report
