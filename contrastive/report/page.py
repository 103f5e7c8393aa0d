"""Composes report.html of a run: results, curves, retrievals, configuration and environment, with nothing to load."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeGuard

from contrastive.errors import RunError
from contrastive.report.cards import meanings_section, results_section
from contrastive.report.charts import Series, finite, is_number, line_chart, number
from contrastive.report.evaluation import curves_section, evaluation_sections, notes, problems_section
from contrastive.report.frame import disclosed, page, write_page
from contrastive.report.markup import Markup, join, tag
from contrastive.report.records import Row, Run, read_run

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
    return write_page(run_directory / "report.html", render(read_run(run_directory)))


def render(run: Run) -> str:
    """The page as text."""
    final = _final_results(run)
    problems = [*run.problems, *notes(run.results)]
    evaluations = evaluation_sections(run.results, problems)
    return page(
        f"{run.name}: training report",
        _header(run),
        problems_section(problems),
        results_section(final),
        meanings_section(final),
        _facts(run),
        _train_curves(run),
        curves_section("Evaluation while training", run.evals),
        *evaluations,
        disclosed("Configuration", run.config),
        disclosed("Environment", run.environment),
    )


def _header(run: Run) -> Markup:
    started = run.environment.get("started")
    return tag(
        "header", tag("h1", run.name), tag("p", join("Training report", f" · started {started}" if started else None))
    )


def _final_results(run: Run) -> list[Row]:
    """The final evaluation, or the last one made while training where there is none."""
    if run.results:
        return run.results
    return list({(row.get("dataset"), row.get("task")): row for row in run.evals}.values())


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


def _positive(value: object) -> TypeGuard[float]:
    return is_number(value) and value > 0


def _counted(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return str(value) if value else None
