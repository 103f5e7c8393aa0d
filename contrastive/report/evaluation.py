"""The sections about evaluations that a run's page and an evaluation's page share."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from contrastive.report import plots
from contrastive.report.cards import MOST_ON_CARDS, all_metrics, result_name, size_note
from contrastive.report.charts import Series, finite, is_number, line_chart
from contrastive.report.classes import confusion, worst_classes
from contrastive.report.gallery import PICTURE_BYTES, gallery, near_misses
from contrastive.report.markup import Markup, tag
from contrastive.report.metrics import headlines, is_share, spaced
from contrastive.report.records import Row

Result = Mapping[str, Any]
NAMED = 5  # unreadable images
MOST_CURVES = 36  # charts of a section; a suite of forty datasets has more than anybody looks at


def evaluation_sections(results: Sequence[Result], problems: list[str]) -> list[Markup]:
    """A section for each result that has more than numbers; an entry that cannot be drawn is named in `problems`."""
    pictured = sum(
        bool((result.get("details") or {}).get(key)) for result in results for key in ("gallery", "near_misses")
    )
    picture_bytes = PICTURE_BYTES // max(1, pictured)
    many = len(results) > MOST_ON_CARDS
    sections = []
    for result in results:
        parts = _drawn(result, picture_bytes, problems)
        if many:
            parts = [part for part in (all_metrics(result), *parts) if part is not None]
        if parts:
            sections.append(_section(result, parts, closed=many))
    return sections


def notes(results: Sequence[Result]) -> list[str]:
    """What a reader has to know before the numbers: warnings, errors, images left out, values that are none."""
    found = []
    for result in results:
        name = result_name(result)
        found += [f"{name}: {text}" for text in result.get("warnings") or []]
        if result.get("error"):
            found.append(f"{name} failed: {result['error']}")
        broken = result.get("unreadable") or []
        if broken:
            more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
            few = ", ".join(map(str, broken[:NAMED]))
            found.append(
                f"{result.get('dataset')}: {len(broken)} images could not be read and are left out: {few}{more}"
            )
        found += [f"{name}: {metric} has no value: {why}" for metric, why in (result.get("reasons") or {}).items()]
    return list(dict.fromkeys(found))


def problems_section(sentences: Sequence[str]) -> Markup | None:
    """The notes as a list."""
    if not sentences:
        return None
    return tag("section", tag("h2", "Notes"), tag("ul", *(tag("li", text) for text in sentences)), class_="problems")


def curves_section(title: str, rows: Sequence[Row]) -> Markup | None:
    """The metrics of each dataset and task against the step; `rows` are results with a `step`."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.get("dataset")), str(row.get("task"))), []).append(row)
    charts = [chart for (dataset, task), rows in groups.items() for chart in _curves(f"{dataset} · {task}", rows)]
    if not charts:
        return None
    hidden = len(charts) - MOST_CURVES
    more = f" {hidden} more charts are left out." if hidden > 0 else ""
    note = tag("p", f"Against optimizer steps; dashed: chance.{more}", class_="note")
    return tag(
        "section", tag("h2", title), tag("div", *(draw() for draw in charts[:MOST_CURVES]), class_="charts"), note
    )


def _section(result: Result, parts: Sequence[Markup], closed: bool) -> Markup:
    if closed:
        return tag("details", tag("summary", result_name(result), size_note(result)), *parts, class_="result")
    return tag("section", tag("h2", result_name(result), size_note(result)), *parts)


def _drawn(result: Result, picture_bytes: int, problems: list[str]) -> list[Markup]:
    details = result.get("details") or {}
    name = result_name(result)
    charts: dict[str, Callable[[Any], Markup | None]] = {
        "reliability": lambda entry: plots.reliability(entry, name),
        "similarity": lambda entry: plots.similarities(entry, name),
        "ranks": lambda entry: plots.ranks(entry, name),
        "projection": lambda entry: plots.projection(entry, name),
        "probe": lambda entry: plots.probe(entry, name),
        "few_shot": lambda entry: plots.few_shot(entry, name),
    }
    tables: dict[str, Callable[[Any], Markup | None]] = {
        "confusion": confusion,
        "per_class": worst_classes,
        "templates": lambda entry: plots.templates(entry, details.get("ablation") or {}),
        "hubs": plots.hubs,
    }
    cards: dict[str, Callable[[Any], Markup | None]] = {
        "gallery": lambda entry: gallery(entry, picture_bytes),
        "near_misses": lambda entry: near_misses(entry, picture_bytes),
    }
    small, blocks, large = (
        [part for key, draw in table.items() for part in [_attempt(result, key, draw, details, problems)] if part]
        for table in (charts, tables, cards)
    )
    return [
        *([tag("div", *small, class_="charts")] if small else []),
        *([tag("div", *(tag("div", block) for block in blocks), class_="blocks")] if blocks else []),
        *large,
    ]


def _attempt(
    result: Result,
    key: str,
    draw: Callable[[Any], Markup | None],
    details: Mapping[str, Any],
    problems: list[str],
) -> Markup | None:
    """What is drawn of an entry of the details; a file may have been damaged, or written by another evaluator."""
    entry = details.get(key)
    if not entry:
        return None
    try:
        return draw(entry)
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        problems.append(f"{result_name(result)}: details.{key} cannot be drawn ({type(error).__name__}: {error}).")
    return None


def _curves(title: str, rows: Sequence[Row]) -> list[Callable[[], Markup]]:
    """One chart for the shares of one kind (recall@1, @5, @10); ranks and losses, whose scales differ, one each."""
    latest = {name: value for row in rows for name, value in row["metrics"].items()}
    groups: dict[str, dict[str, bool]] = {}
    for name in headlines(latest):
        share = is_share(name, latest[name])
        kind = re.sub(r"@\d+", "", name) if "@" in name or not share else ""
        groups.setdefault(kind, {})[name] = share
    return [
        partial(
            line_chart,
            f"{title}: {spaced(kind)}" if kind else title,
            [_curve(rows, name) for name in names],
            percent=all(names.values()),
        )
        for kind, names in groups.items()
    ]


def _curve(rows: Sequence[Row], name: str) -> Series:
    chance = (rows[-1].get("chance") or {}).get(name)
    points = finite((row["step"], row["metrics"].get(name)) for row in rows)
    return Series(spaced(name), points, chance if is_number(chance) else None)
