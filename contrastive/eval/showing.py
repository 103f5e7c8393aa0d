"""What a terminal shows of an evaluation: the plan, the progress, the table of results."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from contrastive.eval.embed import Progress
from contrastive.eval.plan import Planned
from contrastive.eval.result import EvalResult


def plan_table(plan: Sequence[Planned], title: str) -> Table:
    """Return a row a dataset: what is embedded and scored, and how long the embedding is expected to take."""
    grid = Table(title=title)
    grid.add_column("dataset", overflow="fold")
    grid.add_column("tasks", overflow="fold")
    for heading in ("images", "texts", "classes", "expected"):
        grid.add_column(heading, justify="right")
    for entry in plan:
        tasks = ", ".join(task["name"] for task in entry.dataset.tasks)
        classes = f"{len(entry.dataset.classnames):,}" if entry.dataset.classnames else ""
        size = f"{len(entry.dataset):,}", f"{len(entry.dataset.texts):,}", classes
        grid.add_row(entry.dataset.spec.name, tasks, *size, _spoken(entry.seconds))
    if len(plan) > 1:
        grid.add_section()
        grid.add_row("all", "", "", "", "", _spoken(sum(entry.seconds for entry in plan)))
    return grid


def table(
    results: Sequence[EvalResult],
    title: str = "Evaluation",
    baseline: str | None = None,
    choose: Callable[[Iterable[str]], list[str]] = list,
) -> Table:
    """Return a rich table: a row a metric, with its interval, its chance level and the number of images and answers.

    `baseline` names the model that results were compared with; `choose` picks the metrics of a task that are shown.
    """
    grid = Table(title=title)
    for heading in ("dataset", "task", "metric"):
        grid.add_column(heading, overflow="fold")  # a cut name would be another metric's
    has_intervals = any(result.intervals for result in results)
    headings = ["value", *(["95 %"] if has_intervals else []), *(["more by", "p"] if baseline else [])]
    for heading in (*headings, "chance", "images", "answers"):
        grid.add_column(heading, justify="right")
    for result in results:
        shown = choose(result.metrics)
        for position, metric in enumerate(shown):
            names = (result.dataset, result.task) if position == 0 else ("", "")
            cells = [f"{result.metrics[metric]:.4f}"]
            cells += [_interval(result, metric)] if has_intervals else []
            cells += _difference(result, metric) if baseline else []
            grid.add_row(*names, metric, *cells, *_beside(result, metric), end_section=position == len(shown) - 1)
    against = [f"more by: than {baseline}, on the same images"] if baseline else []
    grid.caption = "\n".join([*against, *_notes(results)]) or None
    return grid


def course(named: Sequence[tuple[str, Sequence[EvalResult]]], title: str) -> Table:
    """Return a row a checkpoint with the first metric of every task."""
    grid = Table(title=title)
    grid.add_column("checkpoint", overflow="fold")
    first = [(one.dataset, one.task, next(iter(one.metrics), "")) for one in named[-1][1]]
    for dataset, task, metric in first:
        grid.add_column(f"{dataset} {task} {metric}", justify="right", overflow="fold")
    for name, results in named:
        found = {(one.dataset, one.task): one.metrics for one in results}
        values = [found.get((dataset, task), {}).get(metric) for dataset, task, metric in first]
        grid.add_row(name.rpartition("/")[2], *("" if value is None else f"{value:.4f}" for value in values))
    return grid


def _interval(result: EvalResult, metric: str) -> str:
    found = result.intervals.get(metric)
    return "" if found is None else f"{found[0]:.4f} … {found[1]:.4f}"


def _difference(result: EvalResult, metric: str) -> list[str]:
    found = result.comparison.get(metric)
    return ["", ""] if found is None else [f"{found['delta']:+.4f}", f"{found['p']:.2g}"]


def _beside(result: EvalResult, metric: str) -> tuple[str, str, str]:
    chance, counts = result.chance.get(metric), result.details.get("counts", {})
    answers = counts.get("classes", counts.get("texts")) if not metric.startswith("text_to_image") else result.n
    return (
        "" if chance is None else f"{chance:.4f}",
        f"{result.n:,}",
        "" if answers is None else f"{answers:,}",
    )


def _notes(results: Sequence[EvalResult]) -> list[str]:
    warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
    failures = [f"{result.dataset} {result.task}: {result.error}" for result in results if result.error]
    return [f"warning: {text}" for text in (*warnings, *failures)]


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
