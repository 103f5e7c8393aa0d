"""Line charts as inline SVG, drawn by hand: they follow the page's light or dark colours and need no library."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from contrastive.report.markup import Markup, join, tag

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 10, 22
MAX_POINTS = 300  # more than the pixels of a phone shows nothing new and makes the page heavy
COLOURS = 6


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
    x_range, y_range = _ranges(drawn, percent)
    body = join(
        _grid(x_range, y_range, percent), *(_line(i, s, x_range, y_range, percent) for i, s in enumerate(drawn))
    )
    drawing = tag("svg", body, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
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


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between low and high, a 1-2-5 step apart."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.8 * raw)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float], percent: bool = False) -> list[str]:
    """Labels with as many digits as it takes to tell neighbours apart."""
    shown = [100 * value for value in values] if percent else list(values)
    unit = "\u00a0%" if percent else ""
    step = abs(shown[1] - shown[0]) if len(shown) > 1 else 0.0
    if step < 1e-5 or max(map(abs, shown)) >= 1e4:
        return [number(value) + unit for value in shown]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{digits}f}{unit}" for value in shown]


def number(value: float, percent: bool = False) -> str:
    """A short label: 12.3 %, 1.2k, 3.4M, 0.0012, 5e-05."""
    if percent:
        return f"{100 * value:.1f}\u00a0%" if value >= 0.01 or value == 0 else f"{100 * value:.2g}\u00a0%"
    size = abs(value)
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / {'B': 1e9, 'M': 1e6, 'k': 1e3}[letter]:.3g}{letter}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ranges(drawn: Sequence[Series], percent: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points] + [line.level for line in drawn if line.level is not None]
    low, high = (0.0, max(ys)) if percent else (min(ys), max(ys))
    if not percent and 0 < low < 0.5 * high:
        low = 0.0  # an axis that starts at zero cannot exaggerate, so it is used wherever it costs little room
    margin = 0.05 * (high - low) or max(abs(high), 1e-3) * 0.1
    x_low, x_high = min(xs), max(xs)
    return (x_low, x_high if x_high > x_low else x_low + 1), (low if low == 0 else low - margin, high + margin)


def _place(x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> tuple[float, float]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _grid(x_range: tuple[float, float], y_range: tuple[float, float], percent: bool) -> Markup:
    parts: list[Markup] = []
    y_ticks, x_ticks = ticks(*y_range), ticks(*x_range)
    for value, label in zip(y_ticks, tick_labels(y_ticks, percent), strict=True):
        _, y = _place(x_range[0], value, x_range, y_range)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", label, x=LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end"))
    for value, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        x, _ = _place(value, y_range[0], x_range, y_range)
        parts.append(tag("text", label, x=f"{x:.1f}", y=HEIGHT - 6, text_anchor="middle"))
    return join(*parts)


def _line(
    index: int, line: Series, x_range: tuple[float, float], y_range: tuple[float, float], percent: bool
) -> Markup:
    style = f"line c{index % COLOURS}"
    places = [_place(x, y, x_range, y_range) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [tag("path", d=path, class_=style)]
    if line.level is not None:
        (x1, y), (x2, _) = (_place(x, line.level, x_range, y_range) for x in x_range)
        label = tag("title", f"{line.label}: chance {number(line.level, percent)}")
        parts.append(tag("path", label, d=f"M{x1:.1f} {y:.1f}L{x2:.1f} {y:.1f}", class_=f"{style} level"))
    if len(places) <= 60:  # dots carry the tooltips; on dense lines they would be a smear
        for (x, y), (step, value) in zip(places, line.points, strict=True):
            label = tag("title", f"{line.label} {number(value, percent)} at {step:,.0f}")
            parts.append(tag("circle", label, cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.2, class_=f"dot c{index % COLOURS}"))
    return join(*parts)


def _caption(title: str, drawn: Sequence[Series], percent: bool, note: str) -> Markup:
    last = number(drawn[0].points[-1][1], percent) if len(drawn) == 1 else ""
    remark = tag("span", note, class_="note") if note else None
    return tag("figcaption", title, remark, tag("b", last) if last else None)


def _legend(drawn: Sequence[Series], percent: bool) -> Markup | None:
    if len(drawn) == 1:
        return None
    keys = [
        tag(
            "li", tag("i", class_=f"key c{i % COLOURS}"), line.label, " ", tag("b", number(line.points[-1][1], percent))
        )
        for i, line in enumerate(drawn)
    ]
    return tag("ul", *keys, class_="legend")
