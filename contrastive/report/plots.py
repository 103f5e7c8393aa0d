"""What only a drawing shows: reliability, similarities, the embedding space, ranks; and tables with bars.

Each function takes one entry of a result's details, and the result's name where a screen reader has to tell drawings
apart; it returns None where there is nothing to draw.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from contrastive.report.charts import Series, finite, is_number, line_chart, number
from contrastive.report.classes import meter
from contrastive.report.gallery import shortened
from contrastive.report.markup import Markup, join, tag
from contrastive.report.svg import INK, LINES, RULE, drawing

SQUARE = (3.8, 3.0)  # inches
MOST_TEMPLATES = 8  # from either end
MOST_HUBS = 8
MOST_PAIRS = 500
FEW_DOTS = 100  # classes, which a cloud of images would hide
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}


def reliability(entry: Mapping[str, Any], name: str) -> Markup | None:
    """Bars of the accuracy at each confidence, against the diagonal of an honest model; a line for how many images.

    `entry` is {edges [b + 1], count [b], accuracy [b], confidence [b]}.
    """
    edges, counts, accuracy = entry["edges"], entry["count"], entry["accuracy"]
    total = sum(counts)
    if not total or not len(edges) - 1 == len(counts) == len(accuracy):
        return None
    filled = [bin_ for bin_, count in enumerate(counts) if count and is_number(accuracy[bin_])]
    widths = [edges[bin_ + 1] - edges[bin_] for bin_ in filled]

    def paint(axes: Any) -> None:
        left = [edges[bin_] + 0.05 * width for bin_, width in zip(filled, widths, strict=True)]
        heights = [accuracy[bin_] for bin_ in filled]
        shares = [count / total for count in counts]
        axes.bar(
            left, heights, [0.9 * width for width in widths], align="edge", color=LINES[0], alpha=0.75, gid="accuracy"
        )
        axes.stairs(shares, edges, color=LINES[1], linewidth=1.2, gid="shares")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        _shares(axes, both=True)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence", color=INK)

    keys = _keys(("c0", "accuracy"), ("c1", "share of the images"), ("ink", "honest", True))
    return _figure("reliability", "accuracy against confidence", drawing(f"{name}: reliability", paint, SQUARE), keys)


def similarities(entry: Mapping[str, Any], name: str) -> Markup | None:
    """Histograms of the cosines of right and wrong pairs, each scaled to its own sum.

    `entry` is {edges [b + 1], positive [b], negative [b]}.
    """
    edges, kinds = entry["edges"], {kind: entry[kind] for kind in ("positive", "negative")}
    drawn = {kind: counts for kind, counts in kinds.items() if sum(counts) and len(counts) == len(edges) - 1}
    if not drawn:
        return None

    def paint(axes: Any) -> None:
        for index, (kind, counts) in enumerate(drawn.items()):
            shares = [count / sum(counts) for count in counts]
            axes.stairs(shares, edges, color=LINES[index], linewidth=1.3, gid=kind)
            axes.stairs(shares, edges, color=LINES[index], alpha=0.18, fill=True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("cosine", color=INK)

    words = {"positive": "right pairs", "negative": "wrong pairs"}
    keys = _keys(*((f"c{index}", words[kind]) for index, kind in enumerate(drawn)))
    return _figure("similarities", "each kind adds up to 100 %", drawing(f"{name}: similarities", paint), keys)


def projection(entry: Mapping[str, Any], name: str) -> Markup | None:
    """The two modalities on their first two principal axes, lines between an image and its text.

    `entry` is {image [[x, y]], text [[x, y]], pairs [[image, text]], explained [2]}.
    """
    places = [entry["image"], entry["text"]]
    if not all(places):
        return None
    pairs = [(places[0][image], places[1][text]) for image, text in entry.get("pairs", [])[:MOST_PAIRS]]

    def paint(axes: Any) -> None:
        ends = [(x, y) for start, end in pairs for x, y in (start, end, (math.nan, math.nan))]  # one path for all
        if ends:
            axes.plot(*zip(*ends, strict=True), color=RULE, linewidth=0.5, gid="pairs")
        for index, dots in enumerate(places):
            # Lines without length and with round ends: a marker each would weigh four times as much.
            dots_twice = [(x, y) for x, y in dots[: 2 * MOST_PAIRS] for x, y in ((x, y), (x, y), (math.nan, math.nan))]
            style = {"solid_capstyle": "round", "linewidth": 3 if len(dots) > FEW_DOTS else 5, "alpha": 0.8}
            axes.plot(*zip(*dots_twice, strict=True), color=LINES[index], gid=("images", "texts")[index], **style)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])

    shares = [number(share, percent=True) for share in entry.get("explained", []) if is_number(share)]
    note = f"principal axes: {' + '.join(shares)}" if shares else "principal axes"
    keys = _keys(("c0", "images"), ("c1", "texts"), ("rule", "an image and its text"))
    return _figure("images and texts", note, drawing(f"{name}: images and texts", paint, SQUARE), keys)


def ranks(entry: Mapping[str, Any], name: str) -> Markup | None:
    """How many queries have a right answer among the first k; `entry` is {direction: {k [n], share [n]}}."""
    lines = [
        Series(DIRECTIONS.get(way, way), finite(zip(curve["k"], curve["share"], strict=True)))
        for way, curve in entry.items()
    ]
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    title = "right answer among the first k"
    return line_chart(title, drawn, percent=True, note="against k", log=True, label=f"{name}: {title}")


def probe(entry: Mapping[str, Any], name: str) -> Markup | None:
    """What a linear probe's regularisation did to the held-out images; `entry` has `curve` [{strength, val_top1}]."""
    points = finite((row["strength"], row["val_top1"]) for row in entry.get("curve") or [])
    if len(points) < 2:
        return None
    title = "linear probe: held-out top-1"
    return line_chart(
        title, [Series("top-1", points)], percent=True, note="by strength of L2", log=True, label=f"{name}: {title}"
    )


def few_shot(entries: Sequence[Mapping[str, Any]], name: str) -> Markup | None:
    """The accuracy against the number of images a class, mean over the draws; `entries` are [{shots, top1 [draws]}]."""
    points = finite((row["shots"], sum(row["top1"]) / len(row["top1"])) for row in entries)
    if len(points) < 2:
        return None
    title = "few-shot top-1"
    return line_chart(
        title, [Series("top-1", points)], percent=True, note="by images a class", log=True, label=f"{name}: {title}"
    )


def templates(entries: Sequence[Mapping[str, Any]], ablation: Mapping[str, Any]) -> Markup | None:
    """The accuracy of each prompt template alone, the best first, of many only both ends; and of all together.

    `ablation` has `ensemble`, the accuracy of all together, and the number of `images` that both were measured on.
    """
    order = sorted((row for row in entries if is_number(row.get("top1"))), key=lambda row: -row["top1"])
    if len(order) < 2:
        return None
    hidden = max(0, len(order) - 2 * MOST_TEMPLATES)
    shown: list[Markup] = [_template(row) for row in order]
    if hidden:
        between = tag("tr", tag("td", f"… {hidden} between", colspan=2, class_="missing"))
        shown = [*shown[:MOST_TEMPLATES], between, *shown[-MOST_TEMPLATES:]]
    ensemble, images = ablation.get("ensemble"), ablation.get("images")
    if is_number(ensemble):
        shown.insert(0, tag("tr", tag("td", tag("b", f"all {len(order)} together")), meter(ensemble)))
    head = tag("tr", tag("th", "template"), tag("th", "top-1"))
    note = tag("small", f" on {images:,} images") if isinstance(images, int) else None
    return join(tag("h3", "prompt templates", note), tag("div", tag("table", head, *shown), class_="scroll"))


def hubs(entries: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The answers that turn up in the first ten of most queries."""
    rows = [row for row in entries if is_number(row.get("n"))][:MOST_HUBS]
    if not rows:
        return None
    head = tag("tr", tag("th", "answer"), tag("th", "queries"))
    listed = [tag("tr", tag("td", _hub(row)), tag("td", number(row["n"]), class_="number")) for row in rows]
    note = tag("small", " answers that turn up among the first ten most often")
    return join(tag("h3", "hubs", note), tag("div", tag("table", head, *listed), class_="scroll"))


def _template(row: Mapping[str, Any]) -> Markup:
    return tag("tr", tag("td", shortened(row.get("template", ""))), meter(row["top1"]))


def _hub(row: Mapping[str, Any]) -> str:
    for key in ("text", "key"):
        if row.get(key):
            return shortened(row[key])
    kind = "image" if "image_id" in row else "text"
    return f"{kind} {row.get('image_id', row.get('document', '?'))}"


def _shares(axes: Any, both: bool) -> None:
    for axis in (axes.xaxis, axes.yaxis) if both else (axes.yaxis,):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1.0))


def _keys(*entries: tuple[str, str] | tuple[str, str, bool]) -> Markup:
    """A legend of (colour, meaning), or (colour, meaning, True) for a dashed line."""
    return tag(
        "ul",
        *(tag("li", tag("i", class_=f"key {entry[0]}{' dashed' * (len(entry) > 2)}"), entry[1]) for entry in entries),
        class_="legend",
    )


def _figure(title: str, note: str, drawn: Markup, keys: Markup) -> Markup:
    return tag("figure", tag("figcaption", title, tag("span", note, class_="note")), drawn, keys)
