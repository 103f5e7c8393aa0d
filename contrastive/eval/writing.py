"""What an evaluation leaves behind: results.json, CLIP_benchmark's JSON, a CSV, and tables of what every sample got.

results.json, whose keys keep their order and which never holds NaN:

    {"schema": "contrastive-eval/1", "created": time, "environment": {…}, "model": {"name", …},
     "baseline": name of the model compared with, or null, "languages": {dataset: code, unless it is English},
     "results": [{"dataset", "task", "n": images,
                  "metrics": {name: {"value", "ci95": [low, high] or null, "chance": or null}},
                  "comparison": {name: {"delta", "ci95", "p", "baseline"}}, "timing": seconds, "warnings", "unreadable",
                  "error": or null, "details": {…}, "files": {name of a table: path of its Parquet}}],
     "checkpoints": [{"name", "step", "results": the same without details}]}

A value that is not finite is null, and "reason" says what it was.
"""

import csv
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from torch import Tensor

from contrastive.errors import DataError, RunError
from contrastive.eval.exchange import clip_benchmark_metrics
from contrastive.eval.result import EvalResult
from contrastive.files import replacing, write_whole

SCHEMA = "contrastive-eval/1"
RESULTS, CLIP_BENCHMARK, PREDICTIONS, METRICS = "results.json", "clip_benchmark", "predictions", "metrics.csv"
LONGEST_NAME = 60  # bytes of one part of a file name, of 255 that a file system allows the whole
BESIDE_MODEL = ("environment", "baseline", "languages")
CSV_COLUMNS = ("model", "step", "dataset", "task", "metric", "value", "low", "high", "chance", "n")


def write_results(
    folder: Path,
    results: Sequence[EvalResult],
    about: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write results.json, metrics.csv, clip_benchmark/*.json and predictions/*.parquet, each whole or not at all.

    `about`: what is known of the model: `name` (of an open_clip model the architecture, and its `pretrained` tag),
    `step`, … . Three keys are not of the model: `environment`, `baseline` (the name of the model that results were
    compared with) and `languages` (of datasets, by name, that are not in English). `checkpoints`: {name, step, results}
    of each checkpoint of a run.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [_write_tables(folder, tables) for tables in _named_tables(results)]
        _write_clip_benchmark(folder / CLIP_BENCHMARK, results, about)
        write_whole(folder / METRICS, _csv(results, about, checkpoints))
        content = document(results, about, checkpoints)
        for entry, paths in zip(content["results"], files, strict=True):
            entry["files"] = paths
        write_whole(folder / RESULTS, _json(content))  # last: where it is, the others are
    except OSError as error:
        raise RunError(
            f"{folder}: results cannot be written ({error.strerror or error}); give a folder that can be"
        ) from None


def write_json(
    path: Path,
    results: Sequence[EvalResult],
    about: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the content of results.json alone, as `path`; see `write_results`.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _json(document(results, about, checkpoints)))
    except OSError as error:
        raise RunError(
            f"{path}: results cannot be written ({error.strerror or error}); give a file that can be"
        ) from None


def document(
    results: Sequence[EvalResult], about: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the content of results.json as plain JSON values."""
    content = {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": about.get("environment", {}),
        "model": {key: value for key, value in about.items() if key not in BESIDE_MODEL},
        "baseline": about.get("baseline"),
        "languages": {k: v for k, v in about.get("languages", {}).items() if v != "en"},
        "results": [_entry(result) for result in results],
        "checkpoints": [
            {**checkpoint, "results": [_entry(result, details=False) for result in checkpoint["results"]]}
            for checkpoint in checkpoints
        ],
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the `results` of a results.json, or of the list that earlier versions wrote, in the form of the former.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give a results.json") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); evaluate again to write it anew") from None
    schema = content.get("schema") if isinstance(content, dict) else SCHEMA
    if schema != SCHEMA:
        raise DataError(f"{path}: schema {schema!r} is not {SCHEMA!r}; give a results.json that this version wrote")
    found = content.get("results") if isinstance(content, dict) else content
    whole = isinstance(found, list) and all(
        isinstance(row, dict) and isinstance(row.get("metrics"), dict) and {"dataset", "task"} <= row.keys()
        for row in found
    )
    if not isinstance(found, list) or not whole:
        raise DataError(f"{path}: holds no list of results with dataset, task and metrics; give a results.json")
    return [_in_new_form(row) for row in found]


def _in_new_form(row: Mapping[str, Any]) -> dict[str, Any]:
    chance, intervals = row.get("chance") or {}, row.get("intervals") or {}
    metrics = {
        name: value if isinstance(value, dict) else _metric(value, intervals.get(name), chance.get(name))
        for name, value in row["metrics"].items()
    }
    kept = {key: value for key, value in row.items() if key not in ("chance", "intervals")}
    return {**kept, "metrics": metrics}


def _entry(result: EvalResult, details: bool = True) -> dict[str, Any]:
    metrics = {
        name: _metric(value, result.intervals.get(name), result.chance.get(name))
        for name, value in result.metrics.items()
    }
    entry = {
        "dataset": result.dataset,
        "task": result.task,
        "n": result.n,
        "metrics": metrics,
        "comparison": result.comparison,
        "timing": result.timing,
        "warnings": result.warnings,
        "unreadable": result.unreadable,
        "error": result.error,
    }
    return {**entry, "details": result.details} if details else entry


def _metric(value: float | None, interval: Sequence[float] | None, chance: float | None) -> dict[str, Any]:
    ends = None if interval is None or not all(map(math.isfinite, interval)) else list(interval)
    metric: dict[str, Any] = {"value": value, "ci95": ends, "chance": chance}
    if value is not None and not math.isfinite(value):
        metric["reason"] = "not a number" if math.isnan(value) else "infinite"
    return metric


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: arrays as lists, what is not finite as None."""
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else _text(str(value))


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(results: Sequence[EvalResult], about: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """Return a row a metric, of all checkpoints where there are some; nothing where there is no value."""
    models = checkpoints or [{"name": about.get("name"), "step": about.get("step"), "results": results}]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for model in models:
        for result in model["results"]:
            for name, value in result.metrics.items():
                numbers = (value, *result.intervals.get(name, (None, None)), result.chance.get(name))
                shown = ["" if one is None or not math.isfinite(one) else repr(float(one)) for one in numbers]
                names = (model.get("name"), model.get("step"), result.dataset, result.task, name)
                writer.writerow([*names, *shown, result.n])
    return text.getvalue()


def _write_clip_benchmark(folder: Path, results: Sequence[EvalResult], about: Mapping[str, Any]) -> None:
    """Write a file a task that CLIP_benchmark has too, as its `build` reads them."""
    folder.mkdir(exist_ok=True)
    model, pretrained = (str(about.get(key) or "") for key in ("name", "pretrained"))
    taken: set[str] = set()
    for result in results:
        found = clip_benchmark_metrics(result)
        if found is None:
            continue
        task, metrics = found
        language = str(about.get("languages", {}).get(result.dataset, "en"))
        parts = (result.dataset, pretrained, model, language, task)
        name = _unused("_".join(map(_safe, filter(None, parts))), taken)
        content = {"dataset": result.dataset, "model": model, "pretrained": pretrained, "task": task}
        write_whole(folder / f"{name}.json", _json(_plain({**content, "metrics": metrics, "language": language})))


def _named_tables(results: Sequence[EvalResult]) -> Iterator[dict[str, tuple[str, Mapping[str, Sequence[Any]]]]]:
    """Yield for each result its tables, {table: (name of the file, columns)}."""
    taken: set[str] = set()
    for result in results:
        yield {
            table: (_unused(f"{_safe(result.dataset)}.{_safe(table)}", taken, f".{_safe(result.task)}"), columns)
            for table, columns in result.rows.items()
        }


def _write_tables(folder: Path, tables: Mapping[str, tuple[str, Mapping[str, Sequence[Any]]]]) -> dict[str, str]:
    """Write each table and return its path below `folder`."""
    paths = {}
    for table, (name, columns) in tables.items():
        (folder / PREDICTIONS).mkdir(exist_ok=True)
        paths[table] = f"{PREDICTIONS}/{name}.parquet"
        content = pyarrow.table({column: _column(values) for column, values in columns.items()})
        with replacing(folder / paths[table]) as file:
            pyarrow.parquet.write_table(content, file, compression="zstd")
    return paths


def _column(values: Any) -> Any:
    """Return what Arrow takes: it knows arrays of one dimension only, and lists of them."""
    values = values.numpy() if isinstance(values, Tensor) else values
    if isinstance(values, np.ndarray):
        return list(values) if values.ndim > 1 else values
    return _texts(values)


def _texts(values: Sequence[Any]) -> list[Any]:
    return [
        _text(value) if isinstance(value, str) else _texts(value) if isinstance(value, list | tuple) else value
        for value in values
    ]


def _text(value: str) -> str:
    """Return the text as UTF-8 can hold it: a file name of other bytes has halves of surrogate pairs."""
    return value.encode(errors="backslashreplace").decode()


def _safe(name: str) -> str:
    """Return the name as a part of a file name: no separator, no hidden file, not too long, still told apart."""
    plain = re.sub(r"[^\w.@+-]+", "-", name).strip("-.") or "none"
    if len(plain.encode()) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return plain.encode()[: LONGEST_NAME - 9].decode(errors="ignore") + "-" + digest


def _unused(name: str, taken: set[str], ending: str = "") -> str:
    """Return the name, or one like it where it is taken, and take it."""
    others = ([f"{name}{ending}"] if ending else []) + [f"{name}{ending}-{place}" for place in range(2, len(taken) + 3)]
    free = next(one for one in [name, *others] if one.casefold() not in taken)  # some file systems take A for a
    taken.add(free.casefold())
    return free
