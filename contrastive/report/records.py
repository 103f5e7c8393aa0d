"""What a run directory says about its run, read so that a missing or damaged piece is named and never fatal."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
T = TypeVar("T")


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


def read_run(directory: Path) -> Run:
    """Read metrics.jsonl, evaluation.json, config.yaml and environment.json; none of them has to exist."""
    run = Run(directory.resolve().name)
    rows = _read(run, directory / "metrics.jsonl", lambda text: _read_lines(text, run), "the curves") or []
    run.train = _by_step([row for row in rows if row.get("kind") == "train"], ("step",))
    scored = [row for row in rows if row.get("kind") == "eval" and isinstance(row.get("metrics"), dict)]
    run.evals = _by_step(scored, ("dataset", "task", "step"))
    found = _read(run, directory / "evaluation.json", json.loads, "the final evaluation and the gallery")
    results = _as_list(found)
    run.results = [row for row in results if _is_result(row)]
    if len(run.results) < len(results) or (found is not None and not results):
        run.problems.append(
            "evaluation.json: what is not a result (dataset, task, metrics, chance, details) is left out."
        )
    run.config = _read(run, directory / "config.yaml", str, "the configuration")
    environment = _read(run, directory / "environment.json", json.loads, "the environment")
    run.environment = environment if isinstance(environment, dict) else {}
    if rows and not run.evals:
        run.problems.append("metrics.jsonl has no evaluation rows: there are no evaluation curves.")
    return run


def _read(run: Run, path: Path, parse: Callable[[str], T], purpose: str) -> T | None:
    """The parsed file, or None with a sentence in `run.problems`."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        run.problems.append(f"{path.name} is missing: without it the page lacks {purpose}.")
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.name} cannot be read ({error}): the page lacks {purpose}.")
    return None


def _read_lines(text: str, run: Run) -> list[Row]:
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
        run.problems.append(f"metrics.jsonl: {torn} damaged line{'s' * (torn > 1)} left out.")
    return rows


def _by_step(rows: list[Row], key: tuple[str, ...]) -> list[Row]:
    """Sorted by step, the last row of each key kept: a resumed run writes some steps a second time."""
    latest = {tuple(str(row.get(name)) for name in key): row for row in rows}
    return sorted(latest.values(), key=lambda row: row["step"])


def _is_result(row: object) -> bool:
    mappings = ("metrics", "chance", "details")
    return isinstance(row, dict) and "metrics" in row and all(isinstance(row.get(m) or {}, dict) for m in mappings)


def _as_list(found: object) -> list[Any]:
    if isinstance(found, dict):
        return _as_list(found["results"]) if "results" in found else [found]
    return found if isinstance(found, list) else []
