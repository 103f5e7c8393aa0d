"""What a run or an evaluation says of itself, read so that a missing or damaged piece is named and never fatal."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
T = TypeVar("T")
PARTS = ("metrics", "chance", "intervals", "comparison", "details")  # of a result; all are mappings
LISTS = ("warnings", "unreadable")


@dataclass
class Run:
    """The readable contents of one run directory; `problems` are sentences for the reader."""

    name: str
    train: list[Row] = field(default_factory=list)
    evals: list[Row] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    config: str | None = None
    environment: Row = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class Evaluation:
    """The readable contents of a results.json; `course` are the results of all checkpoints, each with its `step`."""

    name: str
    created: str | None = None
    model: Row = field(default_factory=dict)
    baseline: str | None = None
    results: list[Row] = field(default_factory=list)
    course: list[Row] = field(default_factory=list)
    environment: Row = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_run(directory: Path) -> Run:
    """Read metrics.jsonl, evaluation.json, config.yaml and environment.json; none of them has to exist."""
    run = Run(directory.resolve().name)
    note = run.problems
    rows = _read(note, directory / "metrics.jsonl", lambda text: _read_lines(text, note), "the curves") or []
    run.train = _by_step([row for row in rows if row.get("kind") == "train"], ("step",))
    scored = [row for row in rows if row.get("kind") == "eval" and isinstance(row.get("metrics"), dict)]
    run.evals = _by_step(scored, ("dataset", "task", "step"))
    path = directory / "evaluation.json"
    found = _read(note, path, json.loads, "the final evaluation and the gallery")
    if found is not None:
        run.results = _results(found, path.name, note)
    run.config = _read(note, directory / "config.yaml", str, "the configuration")
    run.environment = _mapping(_read(note, directory / "environment.json", json.loads, "the environment"))
    if rows and not run.evals:
        note.append("metrics.jsonl has no evaluation rows: there are no evaluation curves.")
    return run


def read_evaluation(folder: Path) -> Evaluation:
    """Read results.json; it does not have to exist."""
    evaluation = Evaluation(folder.resolve().name)
    note, path = evaluation.problems, folder / "results.json"
    found = _read(note, path, json.loads, "all results")
    if found is None:
        return evaluation
    evaluation.results = _results(found, path.name, note)
    about = _mapping(found)
    evaluation.model, evaluation.environment = _mapping(about.get("model")), _mapping(about.get("environment"))
    evaluation.name = str(evaluation.model.get("name") or evaluation.name)
    evaluation.created, evaluation.baseline = (
        None if about.get(key) is None else str(about[key]) for key in ("created", "baseline")
    )
    for checkpoint in _as_list(about.get("checkpoints")):
        step = _mapping(checkpoint).get("step")
        if isinstance(step, int):
            rows = _results(checkpoint.get("results"), f"{path.name}: checkpoint {step}", note)
            evaluation.course += [{**row, "step": step} for row in rows]
    rows = _by_step(evaluation.course, ("dataset", "task", "step"))
    seen = Counter((str(row.get("dataset")), str(row.get("task"))) for row in rows)
    evaluation.course = [row for row in rows if seen[str(row.get("dataset")), str(row.get("task"))] > 1]
    return evaluation


def _read(note: list[str], path: Path, parse: Callable[[str], T], purpose: str) -> T | None:
    """The parsed file, or None with a sentence in `note`."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        note.append(f"{path.name} is missing: without it the page lacks {purpose}.")
    except (OSError, ValueError, RecursionError) as error:
        note.append(f"{path.name} cannot be read ({error}): the page lacks {purpose}.")
    return None


def _read_lines(text: str, note: list[str]) -> list[Row]:
    """The rows of a JSONL text; a run that was killed may have left its last line torn."""
    rows, torn = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            torn += 1
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows.append(row)
        else:
            torn += 1
    if torn:
        note.append(f"metrics.jsonl: {torn} damaged line{'s' * (torn > 1)} left out.")
    return rows


def _by_step(rows: list[Row], key: tuple[str, ...]) -> list[Row]:
    """Sorted by step, the last row of each key kept: a resumed run writes some steps a second time."""
    latest = {tuple(str(row.get(name)) for name in key): row for row in rows}
    return sorted(latest.values(), key=lambda row: row["step"])


def _results(found: object, name: str, note: list[str]) -> list[Row]:
    """The results in a file's content, each with the parts that this page knows; what is none is left out and named."""
    results = _as_list(found["results"] if isinstance(found, dict) and "results" in found else found)
    kept = [_result(row) for row in results if _is_result(row)]
    if len(kept) < len(results) or not results:
        note.append(f"{name}: what is not a result (dataset, task, metrics, chance, details) is left out.")
    return kept


def _is_result(row: object) -> bool:
    if not isinstance(row, dict) or "metrics" not in row:
        return False
    kinds = {**dict.fromkeys(PARTS, dict), **dict.fromkeys(LISTS, list)}
    return all(isinstance(row.get(key) or kind(), kind) for key, kind in kinds.items())


def _result(row: Row) -> Row:
    """The result with plain numbers in `metrics`, `chance` and `intervals`, which a results.json has in one.

    `reasons`: why a metric has no value.
    """
    written = row["metrics"] or {}
    if not any(isinstance(value, dict) for value in written.values()):
        return {**row, "metrics": written}
    return {
        **row,
        "metrics": _column(written, "value"),
        "chance": _column(written, "chance"),
        "intervals": _column(written, "ci95"),
        "reasons": _column(written, "reason"),
    }


def _column(metrics: Mapping[str, Any], key: str) -> Row:
    return {
        name: value[key] for name, value in metrics.items() if isinstance(value, dict) and value.get(key) is not None
    }


def _mapping(found: object) -> Row:
    return found if isinstance(found, dict) else {}


def _as_list(found: object) -> list[Any]:
    if isinstance(found, dict):
        return [found]
    return list(found) if isinstance(found, Iterable) and not isinstance(found, str) else []
