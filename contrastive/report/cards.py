"""The numbers of an evaluation: cards for the headlines, tables for all, each with its interval and its chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from contrastive.report.charts import is_number, number
from contrastive.report.classes import meter
from contrastive.report.markup import Markup, join, tag
from contrastive.report.metrics import better, headlines, is_share, meanings, spaced

MOST_ON_CARDS = 6  # results; above that, cards are a wall, and a table with a row a result is read at a glance
SIGNIFICANT = 0.05
PER_CENT = "\u00a0%"

Result = Mapping[str, Any]


def results_section(results: Sequence[Result]) -> Markup | None:
    """The headline metrics of every result, as cards or as one table, with links to what else is known of it."""
    shown = [result for result in results if any(map(is_number, result["metrics"].values()))]
    if not shown:
        return None
    parts = [_overview(shown)] if len(shown) > MOST_ON_CARDS else [_group(result) for result in shown]
    return tag("section", tag("h2", "Results"), *parts)


def all_metrics(result: Result) -> Markup | None:
    """A table of every metric with its interval and chance level; None where the cards say it all."""
    metrics = {name: value for name, value in result["metrics"].items() if is_number(value)}
    if len(headlines(metrics)) == len(metrics):
        return None
    rows = []
    for name, value in metrics.items():
        share = is_share(name, value)
        chance = (result.get("chance") or {}).get(name)
        cells = (
            number(value, share),
            interval(result, name, share),
            number(chance, share) if is_number(chance) else "",
        )
        rows.append(tag("tr", tag("td", spaced(name)), *(tag("td", cell, class_="number") for cell in cells)))
    head = tag("tr", *(tag("th", text) for text in ("metric", "value", "95 % interval", "chance")))
    table = tag("div", tag("table", head, *rows), class_="scroll")
    return tag("details", tag("summary", f"All {len(metrics)} metrics"), table)


def comparison_section(results: Sequence[Result], baseline: str | None) -> Markup | None:
    """The differences from the baseline, by dataset and metric; what 5 % of equal models would show is not coloured."""
    found = [_differences(result) for result in results]
    rows = [row for differences in found for name in headlines(differences) for row in [differences[name]]]
    if not rows:
        return None
    others = [row for differences in found for row in differences.values() if row not in rows]
    against = tag("small", f" {baseline}") if baseline else None
    note = "Paired bootstrap of the images: both models see the same resamples. p is not corrected for many metrics."
    return tag(
        "section",
        tag("h2", "Against the baseline", against),
        _differences_table(rows),
        tag("details", tag("summary", f"{len(others)} other metrics"), _differences_table(others)) if others else None,
        tag("p", note, class_="note"),
    )


def meanings_section(results: Sequence[Result]) -> Markup | None:
    """What the numbers of this page mean, in a sentence each."""
    known = meanings(name for result in results for name in result["metrics"])
    if not known:
        return None
    terms = [join(tag("dt", ", ".join(map(spaced, _few(names)))), tag("dd", text)) for names, text in known]
    general = (
        ("chance", "what a random order of the same answers would score"),
        (
            "95 % interval",
            "where the metric falls in 95 of 100 resamples of the images, captions staying with their image",
        ),
    )
    terms += [join(tag("dt", name), tag("dd", text)) for name, text in general]
    more = tag("p", "Formulas and their sources: docs/evaluation.md.", class_="note")
    summary = tag("summary", "What do these numbers mean?")
    return tag("details", summary, tag("dl", *terms, class_="meanings"), more)


def result_name(result: Result) -> str:
    """The dataset and the task."""
    return f"{result.get('dataset', '?')} · {result.get('task', '?')}"


def size_note(result: Result) -> Markup | None:
    """How many samples were evaluated."""
    size = result.get("n")
    return tag("small", f" {size:,} samples") if isinstance(size, int) else None


def sample_count(result: Result, name: str) -> str:
    """How many queries a metric is the mean of: the images, or the captions that ask for one."""
    counts = (result.get("details") or {}).get("counts")
    size = result.get("n")
    if name.startswith("text_to_image") and isinstance(counts, Mapping):
        size = counts.get("text_to_image_queries", size)
    return f"{size:,}" if isinstance(size, int) else ""


def interval(result: Result, name: str, share: bool) -> str:
    """The interval in words; empty where there is none."""
    ends = (result.get("intervals") or {}).get(name)
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(map(is_number, ends)):
        return ""
    low, high = (number(end, share) for end in ends)
    return f"{low.removesuffix(PER_CENT)} to {high}"


def _group(result: Result) -> Markup:
    values = {name: value for name, value in result["metrics"].items() if is_number(value)}
    cards = [_card(result, name, values[name]) for name in headlines(values)]
    return join(
        tag("h3", result_name(result), size_note(result)), tag("div", *cards, class_="cards"), all_metrics(result)
    )


def _card(result: Result, name: str, value: float) -> Markup:
    chance = (result.get("chance") or {}).get(name)
    share = is_share(name, value)
    beside = f"chance {number(chance, share)}" if is_number(chance) else None
    if beside is None and share and better(name) > 0:
        beside = "no chance level recorded"
    between = interval(result, name, share)
    return tag(
        "div",
        tag("span", spaced(name)),
        tag("strong", number(value, share)),
        _bar(result, name, value, chance) if share else None,
        tag("small", between, title="95 % interval") if between else None,
        tag("small", beside) if beside else None,
        class_="card",
    )


def _bar(result: Result, name: str, value: float, chance: object) -> Markup:
    style = f"--value:{value:.4f}" + (f";--chance:{chance:.4f}" if is_number(chance) else "")
    whisker = None
    if interval(result, name, share=True):
        low, high = ((result["intervals"][name][end]) for end in (0, 1))
        whisker = tag("i", style=f"--low:{max(low, 0):.4f};--high:{min(high, 1):.4f}")
    return tag("div", whisker, class_="bar", style=style)


def _overview(results: Sequence[Result]) -> Markup:
    rows = [_overview_row(result, name) for result in results for name in _first(result)]
    headings = ("dataset", "task", "metric", "value", "95 % interval", "chance", "samples")
    head = tag("tr", *(tag("th", text) for text in headings))
    return tag("div", tag("table", head, *rows), class_="scroll")


def _first(result: Result) -> list[str]:
    """The one or two metrics that stand for a result: the first of each kind, recall in both directions."""
    names = headlines(name for name, value in result["metrics"].items() if is_number(value))
    both = [next((n for n in names if n.startswith(way)), None) for way in ("image_to_text", "text_to_image")]
    return [name for name in both if name is not None] or names[:1]


def _overview_row(result: Result, name: str) -> Markup:
    value, chance = result["metrics"][name], (result.get("chance") or {}).get(name)
    share = is_share(name, value)
    cells = (
        tag("td", result.get("dataset", "?")),
        tag("td", result.get("task", "?")),
        tag("td", spaced(name)),
        meter(value) if share else tag("td", number(value), class_="number"),
        tag("td", interval(result, name, share), class_="number"),
        tag("td", number(chance, share) if is_number(chance) else "", class_="number"),
        tag("td", sample_count(result, name), class_="number"),
    )
    return tag("tr", *cells)


def _differences_table(rows: Sequence[Markup]) -> Markup:
    headings = ("dataset · task", "metric", "this model", "baseline", "difference", "95 % interval", "p")
    head = tag("tr", *(tag("th", text) for text in headings))
    return tag("div", tag("table", head, *rows), class_="scroll")


def _differences(result: Result) -> dict[str, Markup]:
    """A row of the table for each metric that was compared."""
    rows = {}
    for name, found in (result.get("comparison") or {}).items():
        ours = result["metrics"].get(name)
        if isinstance(found, Mapping) and is_number(ours) and is_number(found.get("delta")):
            rows[name] = _difference(result, name, ours, found)
    return rows


def _difference(result: Result, name: str, ours: float, found: Mapping[str, Any]) -> Markup:
    delta, p = found["delta"], found.get("p")
    theirs = found.get("baseline", ours - delta)
    share = is_share(name, ours) and is_share(name, theirs)
    between = interval({"intervals": {name: found.get("ci95")}}, name, share)
    verdict = better(name) * delta if is_number(p) and p < SIGNIFICANT else 0
    cells = (number(ours, share), number(theirs, share) if is_number(theirs) else "", signed(delta, share), between)
    return tag(
        "tr",
        tag("td", result_name(result)),
        tag("td", spaced(name)),
        *(tag("td", cell, class_="number") for cell in cells),
        tag("td", f"{p:.2g}" if is_number(p) else "", class_="number"),
        class_="better" if verdict > 0 else "worse" if verdict < 0 else None,
    )


def signed(value: float, share: bool) -> str:
    """A difference with its sign; of shares in percentage points."""
    shown = number(abs(value), share).replace("%", "points") if share else number(abs(value))
    return ("+" if value > 0 else "-" if value < 0 else "±") + shown


def _few(names: Sequence[str], most: int = 4) -> list[str]:
    return [*names] if len(names) <= most else [*names[: most - 1], "…"]
