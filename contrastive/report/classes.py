"""What is said of classes: which are taken for which, and which are known worst."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from contrastive.report.charts import is_number, number
from contrastive.report.gallery import shortened
from contrastive.report.markup import Markup, image, join, tag

MOST_CLASSES_IN_TABLE = 24
MOST_CLASSES_IN_PICTURE = 400
MOST_CONFUSIONS = 20
MOST_CLASSES = 10  # of the worst
RIGHT, WRONG = (21, 140, 70), (220, 80, 20)  # seen on light and on dark


def confusion(details: Mapping[str, Any]) -> Markup | None:
    """Rows are the true classes, columns the predicted ones; many classes give a picture, and the worst confusions.

    `details` has `classes`, `counts` [true][predicted] (may be empty) and `pairs` [{label, predicted, n}].
    """
    names, counts = details.get("classes") or [], details.get("counts") or []
    square = len(counts) == len(names) and all(len(row) == len(names) for row in counts)
    if counts and square and len(names) <= MOST_CLASSES_IN_TABLE:
        return _matrix(counts, [shortened(name) for name in names])
    picture = _picture(counts) if counts and square and len(names) <= MOST_CLASSES_IN_PICTURE else None
    pairs = _commonest(details["pairs"]) if details.get("pairs") else None
    found = [tag("div", part) for part in (picture, pairs) if part is not None]
    return tag("div", *found, class_="blocks") if found else None


def worst_classes(per_class: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The classes with the lowest recall, or average precision, of [{name, n, recall, precision, top_confusion}]."""
    key = next(
        (key for key in ("recall", "average_precision") if any(is_number(row.get(key)) for row in per_class)), None
    )
    if key is None or len(per_class) < 2:
        return None
    worst = sorted((row for row in per_class if is_number(row.get(key))), key=lambda row: (row[key], str(row["name"])))
    shown = worst[:MOST_CLASSES]
    has_precision = any(is_number(row.get("precision")) for row in shown)
    has_confusion = any(row.get("top_confusion") for row in shown)
    headings = ["class", "images", key.replace("_", " ")]
    headings += ["precision"] * has_precision + ["most often taken for"] * has_confusion
    rows = [_class(row, key, has_precision, has_confusion) for row in shown]
    title = f"{len(shown)} worst classes" if len(shown) < len(worst) else "classes, the worst first"
    note = tag("small", f" of {len(worst):,}") if len(shown) < len(worst) else None
    return _titled(join(title, note), tag("table", tag("tr", *(tag("th", text) for text in headings)), *rows))


def meter(value: float) -> Markup:
    """A share as a number and a bar."""
    bar = tag("span", class_="bar", style=f"--value:{min(max(value, 0), 1):.4f}")
    return tag("td", tag("span", number(value, percent=True)), bar, class_="meter")


def _class(row: Mapping[str, Any], key: str, has_precision: bool, has_confusion: bool) -> Markup:
    confused = row.get("top_confusion")
    if isinstance(confused, Mapping):
        times = f" ({confused['n']} ×)" if is_number(confused.get("n")) else None
        confused = join(tag("bdi", shortened(confused.get("name", ""))), times)
    precision = row.get("precision")
    return tag(
        "tr",
        tag("td", shortened(row["name"])),
        tag("td", f"{row['n']:,}" if is_number(row.get("n")) else "", class_="number"),
        meter(row[key]),
        tag("td", number(precision, percent=True) if is_number(precision) else "", class_="number")
        if has_precision
        else None,
        tag("td", confused or "") if has_confusion else None,
    )


def _matrix(counts: Sequence[Sequence[float]], names: Sequence[str]) -> Markup:
    head = tag("tr", tag("th", "true \\ predicted"), *(tag("th", name, scope="col") for name in names))
    rows = [
        tag("tr", tag("th", names[i], scope="row"), *(_cell(value, sum(row), i == j) for j, value in enumerate(row)))
        for i, row in enumerate(counts)
    ]
    return _titled("confusion matrix", tag("table", head, *rows, class_="confusion"))


def _cell(value: float, total: float, diagonal: bool) -> Markup:
    share = value / total if total else 0.0
    kind = "good" if diagonal else "bad"
    style = f"--share:{share:.3f}" if value else None
    return tag("td", f"{value:g}" if value else "", class_=kind, style=style, title=number(share, percent=True))


def _picture(counts: Sequence[Sequence[float]]) -> Markup:
    """A pixel a cell, its opacity the root of its share of the row, so that one image in a hundred is seen."""
    size = len(counts)
    picture = Image.new("RGBA", (size, size))
    pixels = [
        (*(RIGHT if i == j else WRONG), round(255 * (value / total) ** 0.5))
        for i, (row, total) in enumerate((row, sum(row) or 1) for row in counts)
        for j, value in enumerate(row)
    ]
    picture.putdata(pixels)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    drawn = image(base64.b64encode(content.getvalue()).decode(), f"confusion matrix of {size} classes")
    note = tag(
        "p", "A row a true class, a column a predicted one, both in the order of the class names.", class_="note"
    )
    return join(
        tag("h3", "confusion matrix", tag("small", f" {size} classes")), tag("div", drawn, class_="cells"), note
    )


def _commonest(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    head = tag("tr", tag("th", "true"), tag("th", "predicted"), tag("th", "images"))
    rows = [
        tag(
            "tr",
            tag("td", shortened(pair["label"])),
            tag("td", shortened(pair["predicted"])),
            tag("td", pair["n"], class_="number"),
        )
        for pair in pairs[:MOST_CONFUSIONS]
    ]
    return _titled("commonest confusions", tag("table", head, *rows))


def _titled(title: object, table: Markup) -> Markup:
    return join(tag("h3", title), tag("div", table, class_="scroll"))
