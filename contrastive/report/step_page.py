"""Composes the page of a step of curation from its report.json alone: counts, distributions, and samples to look at."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.errors import RunError
from contrastive.report.charts import is_number, number
from contrastive.report.classes import meter
from contrastive.report.frame import disclosed, page, write_page
from contrastive.report.gallery import PICTURE_BYTES, shortened
from contrastive.report.markup import Markup, image, join, tag
from contrastive.report.svg import INK, LINES, drawing


def write_step_page(report: Path, target: Path) -> Path:
    """Write the page of a step's report.json; return its path.

    Raises:
        RunError: the report cannot be read, or the page not be written.
    """
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"report: {str(report)!r} cannot be read ({error}); run the step again") from None
    if not isinstance(content, dict):
        raise RunError(f"report: {str(report)!r} is no report of a step; give its report.json")
    return write_page(target, render(content))


def render(step: Mapping[str, Any]) -> str:
    """Return the page of a step's report as text; what is missing or of another type is left out."""
    title = str(step.get("title") or "Curation")
    return page(
        title,
        tag("header", tag("h1", title), tag("p", " ".join(map(str, _sequence(step, "command"))))),
        _notes(_sequence(step, "notes")),
        _counts(step),
        _figures(_mapping(step, "figures")),
        _histograms(_mapping(step, "histograms")),
        _examples(_mapping(step, "examples"), _mapping(step, "dropped")),
        disclosed("What it was made of", _mapping(step, "provenance")),
    )


def _notes(notes: Sequence[Any]) -> Markup | None:
    if not notes:
        return None
    return tag("section", tag("h2", "Notes"), tag("ul", *(tag("li", note) for note in notes)), class_="problems")


def _counts(step: Mapping[str, Any]) -> Markup:
    """A row each for what was kept and for every reason, with its share of the samples."""
    samples = step.get("samples")
    total = samples if is_number(samples) and samples > 0 else 1
    dropped = sorted(_mapping(step, "dropped").items(), key=lambda pair: -pair[1] if is_number(pair[1]) else 0)
    rows = [("kept", step.get("kept")), *dropped]
    lines = [
        tag("tr", tag("td", name), tag("td", f"{count:,}", class_="number"), meter(count / total))
        for name, count in rows
        if is_number(count)
    ]
    head = tag("tr", tag("th", "what became of it"), tag("th", "samples"), tag("th", "share"))
    shown = f"{samples:,} samples" if is_number(samples) else "Samples"
    return tag("section", tag("h2", shown), tag("div", tag("table", head, *lines), class_="scroll"))


def _figures(figures: Mapping[str, Any]) -> Markup | None:
    if not figures:
        return None
    cells = (tag("div", tag("dt", name), tag("dd", _figure(value))) for name, value in figures.items())
    return tag("section", tag("h2", "Figures"), tag("dl", *cells, class_="facts"))


def _figure(value: Any) -> str:
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else number(value)
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _histograms(found: Mapping[str, Any]) -> Markup | None:
    charts = [chart for name, one in found.items() if (chart := _histogram(name, one)) is not None]
    return tag("section", tag("h2", "Distributions"), tag("div", *charts, class_="charts")) if charts else None


def _histogram(name: str, found: Any) -> Markup | None:
    """Bars, and a dashed line at the limit; None where there is nothing to draw."""
    if not isinstance(found, Mapping):
        return None
    edges = [edge for edge in _sequence(found, "edges") if is_number(edge)]
    counts = [count for count in _sequence(found, "counts") if is_number(count)]
    limit = found.get("limit")
    if len(edges) != len(counts) + 1 or not any(counts):
        return None

    def paint(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=LINES[0])
        if is_number(limit):
            axes.axvline(limit, color=INK, linewidth=1, linestyle="--")
        axes.set_yticks([])

    note = tag("span", f"limit {number(limit)}", class_="note") if is_number(limit) else None
    return tag("figure", tag("figcaption", name, note), drawing(name, paint))


def _examples(found: Mapping[str, Any], dropped: Mapping[str, Any]) -> Markup | None:
    """Cards of samples by reason, framed by whether it drops them; pictures as far as a page may weigh."""
    parts, room = [], PICTURE_BYTES
    for reason, examples in found.items():
        cards = []
        for one in examples if isinstance(examples, list) else ():
            if isinstance(one, Mapping):
                picture = one.get("image")
                weight = len(picture) if isinstance(picture, str) else 0
                cards.append(_card(one, reason not in dropped, weight <= room))
                room -= min(weight, room)
        if cards:
            parts.append(join(tag("h3", reason), tag("div", *cards, class_="gallery")))
    return tag("section", tag("h2", "Examples"), *parts) if parts else None


def _card(one: Mapping[str, Any], is_kept: bool, is_pictured: bool) -> Markup:
    key, caption, note = (str(one.get(name) or "") for name in ("key", "caption", "note"))
    picture = image(one.get("image"), key) if is_pictured and one.get("image") else None
    return tag(
        "article",
        picture,
        tag("p", shortened(caption), class_="truth"),
        tag("small", shortened(note)) if note else None,
        tag("p", key, class_="note"),
        class_="query example hit" if is_kept else "query example",
    )


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}


def _sequence(content: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = content.get(name)
    return value if isinstance(value, list) else ()
