"""Drawings as inline SVG, made by matplotlib in the page's own colours, so that they follow light and dark."""

import io
import re
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from contrastive.report.markup import Markup, tag

SIZE = (3.8, 2.1)  # inches of 72 points; the page scales it
COLOURS = 6
# Stand-ins that become CSS variables: matplotlib knows no colour that a page may change later.
INK, RULE = "#010203", "#030201"
LINES = tuple(f"#0100{index:02d}" for index in range(COLOURS))
VARIABLES = {INK: "soft", RULE: "rule"} | {line: f"c{i}" for i, line in enumerate(LINES)}
PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
LONG_NUMBER = re.compile(r"(\.\d{3})\d+")  # a thousandth of a point is more than any screen shows, at half the bytes


def drawing(title: str, paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> Markup:
    """Return what `paint` draws on empty axes; `title` is what a screen reader says."""
    # The salt keeps the ids of two drawings on one page apart. Unsimplified, since a dot is a line without length.
    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "path.simplify": False}
    with rc_context({**settings, "font.size": 8, "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=INK)
        paint(axes)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    svg = PLACES.sub(lambda place: LONG_NUMBER.sub(r"\1", place[0]), svg[svg.index("<svg") :])
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return tag("div", Markup(svg), role="img", aria_label=title, class_="drawing")
