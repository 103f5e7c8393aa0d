"""Evaluate one model on datasets, an embedding pass each that all tasks read; for the training loop and the command."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from contrastive import distributed, registry
from contrastive.errors import ConfigError, DataError
from contrastive.eval.bootstrap import Sampling, compare, intervals
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import ContrastiveModel, Embeddings, Pass, Progress, Tokenizer, Transform, embed
from contrastive.eval.gallery import with_pictures
from contrastive.eval.result import EvalResult, Result
from contrastive.eval.sharing import everywhere

PICTURED = ("gallery", "near_misses")  # entries of details that name images
Task = Callable[[Embeddings], Result]


def evaluate(
    model: ContrastiveModel,
    transform: Transform,
    tokenizer: Tokenizer,
    datasets: Sequence[EvalDataset],
    how: Pass = Pass(),
    sampling: Sampling | None = None,
) -> list[EvalResult]:
    """Return one result for each task of each dataset; every process must call it, and every process gets all of it.

    `sampling` None: no intervals. See `embed.embed` for the arguments and for what else is refused.

    Raises:
        ConfigError: two datasets of one name, or an unknown task.
    """
    check(datasets)
    results = []
    for dataset in datasets:
        results += score(embed(model, transform, tokenizer, dataset, how), sampling, progress=how.progress)
    return results


def check(datasets: Sequence[EvalDataset]) -> None:
    """Refuse datasets that cannot be evaluated together, before anything is embedded.

    Raises:
        ConfigError: two datasets of one name, or an unknown task.
    """
    names = [dataset.spec.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{names.count(name)} datasets are named {name!r}; give each its own name")
    for dataset in datasets:
        tasks_of(dataset)


def tasks_of(dataset: EvalDataset) -> dict[str, Task]:
    """Return the dataset's tasks, by name and in their order.

    Raises:
        ConfigError: unknown task or option, or one that stands twice.
    """
    tasks: dict[str, Task] = {}
    for spec in dataset.tasks:
        key = f"dataset {dataset.spec.name}: tasks"
        task = registry.build(registry.EVALUATORS, spec, key)
        if spec["name"] in tasks:
            raise ConfigError(f"{key}: {spec['name']} stands twice")
        tasks[spec["name"]] = task
    return tasks


def score(
    embeddings: Embeddings,
    sampling: Sampling | None = None,
    baseline: Embeddings | None = None,
    progress: Progress | None = None,
) -> list[EvalResult]:
    """Return one result for each task of the embeddings' dataset, the tasks shared by the processes.

    Every process must call it, and gets all results. A task that fails on one process is raised on all. `baseline` are
    another model's embeddings of the same dataset, to be compared with. `progress` is told before each task of this
    process, and may raise Preempted.

    Raises:
        DataError: the two models could not read the same images.
    """
    name = embeddings.dataset.spec.name
    if baseline is not None and baseline.dataset.images != embeddings.dataset.images:
        raise DataError(f"dataset {name}: the two models have not read the same images").everywhere()
    tasks = tasks_of(embeddings.dataset)
    own = list(tasks.items())[distributed.rank() :: distributed.world_size()]

    def work() -> tuple[None, list[EvalResult]]:
        done = []
        for count, (task, run) in enumerate(own):
            if progress is not None:
                progress(f"{name} tasks", count, len(own))
            done.append(_scored(task, run, embeddings, sampling, baseline))
        return None, [result for result in done if result is not None]

    found = {result.task: result for results in everywhere(work)[1] for result in results}
    return [found[task] for task in tasks if task in found]


def _scored(
    name: str, task: Task, embeddings: Embeddings, sampling: Sampling | None, baseline: Embeddings | None
) -> EvalResult | None:
    """Return the task's result; None of one that nobody asked for and that does not suit the model or the data."""
    start = time.perf_counter()
    try:
        result = task(embeddings)
    except ConfigError:
        if embeddings.dataset.are_default:
            return None
        raise
    found = intervals(result.estimates, result.clusters, sampling) if sampling and result.estimates else {}
    comparison = {}
    if baseline is not None:
        other = task(baseline)
        drawn = compare(result.estimates, other.estimates, result.clusters, sampling or Sampling())
        comparison = {
            metric: {"delta": one.delta, "ci95": [one.low, one.high], "p": one.p, "baseline": other.metrics[metric]}
            for metric, one in drawn.items()
        }
    return EvalResult(
        dataset=embeddings.dataset.spec.name,
        task=name,
        n=len(embeddings.dataset),
        metrics=result.metrics,
        chance=result.chance,
        timing={"embed_seconds": embeddings.seconds, "score_seconds": time.perf_counter() - start},
        warnings=embeddings.warnings + result.warnings,
        details=result.details,
        intervals=found,
        unreadable=embeddings.unreadable,
        comparison=comparison,
        rows=result.rows,
    )


def failed(dataset: EvalDataset, error: Exception) -> list[EvalResult]:
    """Return results without figures, one for each task of a dataset that could not be evaluated."""
    name, timing = dataset.spec.name, {"embed_seconds": 0.0, "score_seconds": 0.0}
    return [EvalResult(name, task["name"], len(dataset), {}, {}, timing, error=str(error)) for task in dataset.tasks]


def illustrated(results: Sequence[EvalResult], datasets: Sequence[EvalDataset]) -> list[EvalResult]:
    """Return the results with the pictures of their galleries inside, as a report needs them; for one process."""
    by_name = {dataset.spec.name: dataset for dataset in datasets}
    return [_illustrated(result, by_name[result.dataset]) for result in results]


def _illustrated(result: EvalResult, dataset: EvalDataset) -> EvalResult:
    dataset = dataset.without(dataset.places_of(result.unreadable)) if result.unreadable else dataset
    pictured = {key: with_pictures(result.details[key], dataset) for key in PICTURED if result.details.get(key)}
    return replace(result, details={**result.details, **pictured})
