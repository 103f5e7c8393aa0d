"""Composes report.html: cards, curves, retrievals, configuration and environment of one run, with nothing to load."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard

from contrastive.errors import RunError
from contrastive.report.charts import Series, finite, line_chart, number
from contrastive.report.gallery import confusion, gallery
from contrastive.report.markup import Markup, join, tag
from contrastive.report.records import Row, Run, read_run

# The page needs no script and no network; the policy makes a browser enforce it even if escaping had a hole.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
TRAIN_CURVES = {
    "loss": "loss",
    "logit_scale": "temperature: logit scale (exp)",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "samples_per_second": "throughput: samples/s",
    "data_wait_share": "time spent waiting for data",
}


def write_report(run_directory: Path) -> Path:
    """Write `report.html` into the run directory and return its path; what the run lacks is said on the page.

    Raises:
        RunError: the directory does not exist or cannot be written.
    """
    if not run_directory.is_dir():
        raise RunError(f"report: {str(run_directory)!r} is not a directory: give a run directory that pretrain.py made")
    path = run_directory / "report.html"
    unfinished = path.with_suffix(".html.tmp")
    try:
        unfinished.write_text(render(read_run(run_directory)), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(f"report: {str(path)!r} cannot be written ({error}): free or unlock the directory") from error
    return path


def render(run: Run) -> str:
    """The page as text."""
    style = Markup(files("contrastive.report").joinpath("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        Markup(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", f"{run.name}: training report"),
        tag("style", style),
    )
    sections = (
        _header(run),
        _problems(run),
        _cards(run),
        _facts(run),
        _train_curves(run),
        _eval_curves(run),
        _evaluations(run),
        _config(run),
        _environment(run),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *sections)), lang="en") + "\n"


def _header(run: Run) -> Markup:
    started = run.environment.get("started")
    return tag(
        "header", tag("h1", run.name), tag("p", join("Training report", f" · started {started}" if started else None))
    )


def _problems(run: Run) -> Markup | None:
    warnings = dict.fromkeys(
        f"{_result_name(result)}: {text}" for result in run.results for text in result.get("warnings") or []
    )
    sentences = [*run.problems, *warnings]
    if not sentences:
        return None
    return tag("section", tag("h2", "Notes"), tag("ul", *(tag("li", text) for text in sentences)), class_="problems")


def _final_results(run: Run) -> list[Row]:
    """The final evaluation, or the last one made while training where there is none."""
    if run.results:
        return run.results
    return list({(row.get("dataset"), row.get("task")): row for row in run.evals}.values())


def _cards(run: Run) -> Markup | None:
    groups = [group for result in _final_results(run) for group in [_metric_group(result)] if group is not None]
    return tag("section", tag("h2", "Results"), *groups) if groups else None


def _metric_group(result: Mapping[str, Any]) -> Markup | None:
    cards = [_metric_card(result, name, value) for name, value in result["metrics"].items() if _is_number(value)]
    if not cards:
        return None
    return join(tag("h3", _result_name(result), _size_note(result)), tag("div", *cards, class_="cards"))


def _metric_card(result: Mapping[str, Any], name: str, value: float) -> Markup:
    chance = (result.get("chance") or {}).get(name)
    percent = _is_share(name, value)
    beside, at_chance = "no chance level recorded", 0.0
    if _is_number(chance):
        beside, at_chance = f"chance {number(chance, percent)}", chance
    bar = tag("div", class_="bar", style=f"--value:{value:.4f};--chance:{at_chance:.4f}") if percent else None
    return tag(
        "div",
        tag("span", _spaced(name)),
        tag("strong", number(value, percent)),
        bar,
        tag("small", beside),
        class_="card",
    )


def _facts(run: Run) -> Markup | None:
    facts = {name: value for name, value in _fact_values(run).items() if value is not None}
    if not facts:
        return None
    cells = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items())
    return tag("section", tag("h2", "Run"), tag("dl", *cells, class_="facts"))


def _fact_values(run: Run) -> dict[str, str | None]:
    last = run.train[-1] if run.train else {}
    seconds, samples = last.get("seconds"), last.get("samples_seen")
    rate = samples / seconds if _positive(samples) and _positive(seconds) else None
    environment = run.environment
    precision = environment.get("precision")
    return {
        "samples seen": f"{samples:,.0f}" if _positive(samples) else None,
        "steps": f"{last['step']:,.0f}" if last else None,
        "training time": str(timedelta(seconds=round(seconds))) if _positive(seconds) else None,
        "samples/s, all in": number(rate) if rate else None,
        "parameters": _counted(environment.get("parameters")),
        "processes": _counted(environment.get("world_size")),
        "precision": _text({"no": "fp32"}.get(str(precision), precision)),
        "machine": _machine(environment),
        "git revision": _revision(environment),
    }


def _machine(environment: Row) -> str | None:
    """The accelerator, or the processor with its cores."""
    cores = environment.get("cores")
    processor = _text(environment.get("processor"))
    return _text(environment.get("accelerator")) or (
        f"{processor}, {cores} cores" if processor and cores else processor
    )


def _revision(environment: Row) -> str | None:
    revision = _text(environment.get("git_revision"))
    return revision and revision[:10] + (" with changes" if environment.get("git_modified") else "")


def _train_curves(run: Run) -> Markup | None:
    if not run.train:
        return None
    charts = [_train_curve(run.train, key, title) for key, title in TRAIN_CURVES.items()]
    charts += _pair_curves(run.train)
    return tag(
        "section",
        tag("h2", "Training"),
        tag("div", *charts, class_="charts"),
        tag("p", "Against optimizer steps.", class_="note"),
    )


def _train_curve(rows: Sequence[Row], key: str, title: str) -> Markup:
    return _lines(rows, title, {key: title}, percent=key == "data_wait_share")


def _pair_curves(rows: Sequence[Row]) -> list[Markup]:
    """Return how well each loss that says so tells its pairs apart, and the gradient's norm by tower, where logged."""
    logged = sorted({key for row in rows for key in row})
    charts = []
    for loss in [key.removesuffix("/accuracy") for key in logged if key.endswith("/accuracy")]:
        charts.append(_lines(rows, f"{loss}: right text in the batch", {f"{loss}/accuracy": "images"}, percent=True))
        cosines = {f"{loss}/{kind}_similarity": f"{kind} pairs" for kind in ("positive", "negative")}
        charts.append(_lines(rows, f"{loss}: mean cosine", cosines))
    towers = {key: key.removeprefix("grad_norm/") for key in logged if key.startswith("grad_norm/")}
    return [*charts, _lines(rows, "gradient norm by tower", towers)] if towers else charts


def _lines(rows: Sequence[Row], title: str, names: dict[str, str], *, percent: bool = False) -> Markup:
    series = [Series(name, finite((row["step"], row.get(key)) for row in rows)) for key, name in names.items()]
    return line_chart(title, series, percent=percent)


def _eval_curves(run: Run) -> Markup | None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in run.evals:
        groups.setdefault((str(row.get("dataset")), str(row.get("task"))), []).append(row)
    charts = [chart for (dataset, task), rows in groups.items() for chart in _eval_charts(f"{dataset} · {task}", rows)]
    if not charts:
        return None
    note = tag("p", "Against optimizer steps; dashed: chance.", class_="note")
    return tag("section", tag("h2", "Evaluation while training"), tag("div", *charts, class_="charts"), note)


def _eval_charts(title: str, rows: Sequence[Row]) -> list[Markup]:
    """One chart for the shares of one kind (recall@1, @5, @10); ranks and losses, whose scales differ, one each."""
    groups: dict[str, dict[str, bool]] = {}
    for name, value in {name: value for row in rows for name, value in row["metrics"].items()}.items():
        share = _is_share(name, value)
        kind = re.sub(r"@\d+", "", name) if "@" in name or not share else ""
        groups.setdefault(kind, {})[name] = share
    return [
        line_chart(
            f"{title}: {_spaced(kind)}" if kind else title,
            [_eval_series(rows, name) for name in names],
            percent=all(names.values()),
        )
        for kind, names in groups.items()
    ]


def _eval_series(rows: Sequence[Row], name: str) -> Series:
    chance = (rows[-1].get("chance") or {}).get(name)
    points = finite((row["step"], row["metrics"].get(name)) for row in rows)
    return Series(_spaced(name), points, chance if _is_number(chance) else None)


def _evaluations(run: Run) -> Markup | None:
    parts = [part for result in run.results for part in [_evaluation(result)] if part is not None]
    return join(*parts) if parts else None


def _evaluation(result: Mapping[str, Any]) -> Markup | None:
    details = result.get("details") or {}
    shown = [gallery(details.get("gallery") or []), confusion(details.get("confusion") or {})]
    if not any(part is not None for part in shown):
        return None
    return tag("section", tag("h2", _result_name(result), _size_note(result)), *shown)


def _config(run: Run) -> Markup | None:
    if run.config is None:
        return None
    return tag("details", tag("summary", "Configuration"), tag("pre", run.config))


def _environment(run: Run) -> Markup | None:
    if not run.environment:
        return None
    text = json.dumps(run.environment, indent=2, ensure_ascii=False)
    return tag("details", tag("summary", "Environment"), tag("pre", text))


def _result_name(result: Mapping[str, Any]) -> str:
    return f"{result.get('dataset', '?')} · {result.get('task', '?')}"


def _size_note(result: Mapping[str, Any]) -> Markup | None:
    size = result.get("n")
    return tag("small", f" {size:,} samples") if isinstance(size, int) else None


def _is_share(name: str, value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1 and not any(word in name for word in ("rank", "loss"))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _positive(value: object) -> TypeGuard[float]:
    return _is_number(value) and value > 0


def _counted(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return str(value) if value else None
