"""Line charts as inline SVG, drawn by matplotlib in the page's own colours, so that they follow light and dark."""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter

from contrastive.report.markup import Markup, tag

SIZE = (3.8, 2.1)  # inches of 72 points; the page scales it
MAX_POINTS = 300  # more than the pixels of a phone shows nothing new and makes the page heavy
COLOURS = 6
MOST_DOTS = 60  # on dense lines dots would be a smear
# Stand-ins that become CSS variables: matplotlib knows no colour that a page may change later.
INK, RULE = "#010203", "#030201"
LINES = tuple(f"#0100{index:02d}" for index in range(COLOURS))


@dataclass(frozen=True)
class Series:
    """A named line; `level` is a reference value (chance) drawn dashed in the same colour."""

    label: str
    points: Sequence[tuple[float, float]]
    level: float | None = None


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False, note: str = "") -> Markup:
    """A figure with a title, a legend when there are several lines, and the last value of each."""
    cleaned = [replace(line, points=thin(finite(line.points))) for line in series]
    drawn = [line for line in cleaned if line.points]
    if not drawn:
        return tag("figure", tag("figcaption", title), tag("p", "no values were logged", class_="missing"))
    drawing = tag("div", _drawing(drawn, percent, title), role="img", aria_label=title, class_="drawing")
    return tag("figure", _caption(title, drawn, percent, note), drawing, _legend(drawn, percent))


def finite(points: Iterable[tuple[object, object]]) -> list[tuple[float, float]]:
    """The points whose two values are finite numbers: a missing or NaN value is a gap, not a zero."""
    return [(float(x), float(y)) for x, y in points if _is_number(x) and _is_number(y)]


def thin(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of neighbours, with the very last point kept as it is."""
    if len(points) <= most:
        return list(points)
    width = math.ceil(len(points) / (most - 1))
    buckets = [points[start : start + width] for start in range(0, len(points), width)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in buckets]
    return [*means, points[-1]]


def number(value: float, percent: bool = False) -> str:
    """A short label: 12.3 %, 1.2k, 3.4M, 0.0012, 5e-05."""
    if percent:
        return f"{100 * value:.1f}\u00a0%" if value >= 0.01 or value == 0 else f"{100 * value:.2g}\u00a0%"
    rounded = value if abs(value) < 1e4 else float(f"{value:.3g}")  # before the unit is chosen: 999,999 is 1M
    for limit, unit, letter in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(rounded) >= limit:
            return f"{rounded / unit:.12g}{letter}"
    return f"{value:,.0f}" if abs(rounded) >= 100 else f"{value:.3g}"


def _is_number(value: object) -> TypeGuard[float]:
    # Beyond 1e300 even the span of an axis overflows; no curve that a run logs is there.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _drawing(drawn: Sequence[Series], percent: bool, title: str) -> Markup:
    # The salt keeps the ids of two charts on one page apart.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 8, "font.family": "sans-serif"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for index, line in enumerate(drawn):
            colour, dot = LINES[index % COLOURS], "o" if len(line.points) <= MOST_DOTS else ""
            steps, values = zip(*line.points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=dot, markersize=2.5, gid=f"line{index}")
            if line.level is not None:
                axes.axhline(line.level, linewidth=1, linestyle="--", color=colour, gid=f"level{index}")
        _scale(axes, percent)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "var(--soft)").replace(RULE, "var(--rule)")
    for index, colour in enumerate(LINES):
        svg = svg.replace(colour, f"var(--c{index})")
    return Markup(svg)


def _scale(axes: Any, percent: bool) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if percent else StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    low, high = axes.get_ylim()
    if percent or 0 < low < 0.5 * high:
        axes.set_ylim(bottom=0)  # an axis that starts at zero cannot exaggerate, so it is used where it costs little
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.tick_params(length=0, colors=INK)


def _caption(title: str, drawn: Sequence[Series], percent: bool, note: str) -> Markup:
    remark = tag("span", note, class_="note") if note else None
    if len(drawn) > 1:
        return tag("figcaption", title, remark)
    return tag(
        "figcaption", title, remark, tag("b", number(drawn[0].points[-1][1], percent)), _chance(drawn[0], percent)
    )


def _legend(drawn: Sequence[Series], percent: bool) -> Markup | None:
    if len(drawn) == 1:
        return None
    keys = []
    for index, line in enumerate(drawn):
        value = tag("b", number(line.points[-1][1], percent))
        swatch = tag("i", class_=f"key c{index % COLOURS}")
        keys.append(tag("li", swatch, line.label, " ", value, _chance(line, percent)))
    return tag("ul", *keys, class_="legend")


def _chance(line: Series, percent: bool) -> Markup | None:
    if line.level is None:
        return None
    return tag("small", f" chance {number(line.level, percent)}", class_="chance")
