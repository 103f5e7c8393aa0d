"""Line charts, and the short numbers that stand on cards and charts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from contrastive.report.markup import Markup, tag
from contrastive.report.svg import COLOURS, LINES, RULE, drawing

MAX_POINTS = 300  # more than the pixels of a phone shows nothing new and makes the page heavy
MOST_DOTS = 60  # on dense lines dots would be a smear


@dataclass(frozen=True)
class Series:
    """A named line; `level` is a reference value (chance) drawn dashed in the same colour."""

    label: str
    points: Sequence[tuple[float, float]]
    level: float | None = None


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    percent: bool = False,
    note: str = "",
    log: bool = False,
    label: str | None = None,
) -> Markup:
    """A figure with a title, a legend when there are several lines, and the last value of each.

    `log`: of the x axis. `label`: what a screen reader says, where the title alone does not tell this figure apart.
    """
    cleaned = [replace(line, points=thin(finite(line.points))) for line in series]
    drawn = [line for line in cleaned if line.points]
    if not drawn:
        return tag("figure", tag("figcaption", title), tag("p", "no values were logged", class_="missing"))

    def paint(axes: Any) -> None:
        for index, line in enumerate(drawn):
            _line(axes, index, line)
        _scale(axes, percent, log)

    return tag("figure", _caption(title, drawn, percent, note), drawing(label or title, paint), _legend(drawn, percent))


def finite(points: Iterable[tuple[object, object]]) -> list[tuple[float, float]]:
    """The points whose two values are finite numbers: a missing or NaN value is a gap, not a zero."""
    return [(float(x), float(y)) for x, y in points if _is_drawable(x) and _is_drawable(y)]


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
        return f"{100 * value:.1f}\u00a0%" if abs(value) >= 0.01 or value == 0 else f"{100 * value:.2g}\u00a0%"
    rounded = value if abs(value) < 1e4 else float(f"{value:.3g}")  # before the unit is chosen: 999,999 is 1M
    for limit, unit, letter in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(rounded) >= limit:
            return f"{rounded / unit:.12g}{letter}"
    return f"{value:,.0f}" if abs(rounded) >= 100 else f"{value:.3g}"


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_drawable(value: object) -> TypeGuard[float]:
    # Beyond 1e300 even the span of an axis overflows; no curve that a run logs is there.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _line(axes: Any, index: int, line: Series) -> None:
    colour, dot = LINES[index % COLOURS], "o" if len(line.points) <= MOST_DOTS else ""
    steps, values = zip(*line.points, strict=True)
    axes.plot(steps, values, color=colour, linewidth=1.5, marker=dot, markersize=2.5, gid=f"line{index}")
    if line.level is not None:
        axes.axhline(line.level, linewidth=1, linestyle="--", color=colour, gid=f"level{index}")


def _scale(axes: Any, percent: bool, log: bool) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if percent else StrMethodFormatter("{x:g}"))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = axes.get_ylim()
    if percent or 0 < low < 0.5 * high:
        axes.set_ylim(bottom=0)  # an axis that starts at zero cannot exaggerate, so it is used where it costs little
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.tick_params(which="minor", length=0)


def _caption(title: str, drawn: Sequence[Series], percent: bool, note: str) -> Markup:
    remark = tag("span", note, class_="note") if note else None
    if len(drawn) > 1:
        return tag("figcaption", title, remark)
    value = tag("b", number(drawn[0].points[-1][1], percent))
    return tag("figcaption", title, remark, value, _chance(drawn[0], percent))


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
