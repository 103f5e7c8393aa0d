"""The pictures of an evaluation: retrievals with their images, and the confusion matrix of a classification."""

from collections.abc import Mapping, Sequence
from typing import Any

from contrastive.report.charts import number
from contrastive.report.markup import Markup, image, join, tag

MOST_CLASSES_IN_TABLE = 24
MOST_CONFUSIONS = 20
PICKS = {
    "first": "the first queries of the set",
    "best": "the surest right answers",
    "worst": "the right answer ranked last",
}


def gallery(queries: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Cards, grouped by direction and by why they were picked; in each a query and its best answers, right ones marked.

    A query or answer has `image` (base64), `text` or both; an answer also `score`, `correct`, and `lookalike` where
    the wrong text looks the same as the right one.
    """
    groups: dict[tuple[str, str], list[Markup]] = {}
    for query in queries:
        group = str(query.get("direction", "")).replace("_", " "), str(query.get("pick", ""))
        groups.setdefault(group, []).append(_card(query))
    parts = [
        join(tag("h3", direction, tag("small", f" {PICKS.get(pick, pick)}")), tag("div", *cards, class_="gallery"))
        for (direction, pick), cards in groups.items()
    ]
    return join(*parts) if parts else None


def confusion(details: Mapping[str, Any]) -> Markup | None:
    """Rows are the true classes, columns the predicted ones; many classes give a list of the commonest confusions.

    `details` has `classes`, `counts` [true][predicted] (may be empty) and `pairs` [{label, predicted, n}].
    """
    names, counts = details.get("classes") or [], details.get("counts") or []
    square = len(counts) == len(names) and all(len(row) == len(names) for row in counts)
    if counts and square and len(names) <= MOST_CLASSES_IN_TABLE:
        return _matrix(counts, [str(name) for name in names])
    return _commonest(details["pairs"]) if details.get("pairs") else None


def _card(query: Mapping[str, Any]) -> Markup:
    answers = query.get("answers") or []
    truth = query.get("truth", query.get("text"))
    label = str(truth if truth is not None else query.get("key", "query"))
    if "image" in query or "image_id" in query:
        head = join(image(query.get("image"), str(query.get("key", label))), tag("p", label, class_="truth"))
    else:
        head = tag("p", label, class_="truth")
    position = query.get("rank")
    rank = tag("small", f"rank {number(position)}") if isinstance(position, int | float) else None
    hit = any(answer.get("correct") for answer in answers)
    listed = tag("ol", *map(_answer, answers))
    return tag("article", tag("header", head, rank), listed, class_="query hit" if hit else "query")


def _answer(answer: Mapping[str, Any]) -> Markup:
    mark, meaning, kind = "", None, None
    if answer.get("correct"):
        mark, meaning, kind = "✓", "right", "right"
    elif answer.get("lookalike"):
        mark, meaning, kind = "≈", "looks the same as the right one", "alike"
    text = str(answer.get("text", ""))
    pictured = "image" in answer or "image_id" in answer
    picture = image(answer.get("image"), str(answer.get("key", text))) if pictured else None
    score = answer.get("score")
    value = tag("span", f"{score:.3f}", class_="score") if isinstance(score, int | float) else None
    sign = tag("span", mark, class_="mark", aria_label=meaning, title=meaning)
    return tag("li", sign, picture, tag("span", text, class_="text"), value, class_=kind)


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


def _commonest(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    head = tag("tr", tag("th", "true"), tag("th", "predicted"), tag("th", "images"))
    rows = [
        tag("tr", tag("td", pair["label"]), tag("td", pair["predicted"]), tag("td", pair["n"], class_="number"))
        for pair in pairs[:MOST_CONFUSIONS]
    ]
    return _titled("commonest confusions", tag("table", head, *rows))


def _titled(title: str, table: Markup) -> Markup:
    return join(tag("h3", title), tag("div", table, class_="scroll"))
