"""Retrievals as a person sees them: a query beside its best answers, with their pictures, right and wrong framed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contrastive.report.charts import is_number, number
from contrastive.report.markup import Markup, image, join, tag

LONGEST_TEXT = 400  # characters; a caption of more is a document
PICTURE_BYTES = 3_000_000  # of one page, beside which charts and text stay below 2 MB
PICKS = {
    "first": "the first queries of the set",
    "best": "the surest right answers",
    "worst": "the right answer ranked last",
    "near_miss": "wrong by the smallest margin",
    "narrow_miss": "wrong by the smallest margin",
    "narrow_hit": "right by the smallest margin",
    "confident_error": "wrong by the largest margin",
}


def gallery(queries: Sequence[Mapping[str, Any]], picture_bytes: int = PICTURE_BYTES) -> Markup | None:
    """Cards, grouped by direction and by why they were picked; in each a query and its best answers, right ones marked.

    A query or answer has `image` (base64), `text` or both; an answer also `score`, `correct`, and `lookalike` where
    the wrong text looks the same as the right one. Of each group as many queries are shown as `picture_bytes` allow,
    and one without pictures where they allow none.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for query in queries:
        group = str(query.get("direction", "")).replace("_", " "), str(query.get("pick", ""))
        groups.setdefault(group, []).append(query)
    most = max(map(len, groups.values()), default=0)
    while most > 1 and _weight(groups.values(), most) > picture_bytes:
        most -= 1
    if _weight(groups.values(), most) > picture_bytes:
        groups = {group: [_bare(query) for query in found] for group, found in groups.items()}
    parts = [
        join(
            tag("h3", direction, tag("small", f" {PICKS.get(pick, pick.replace('_', ' '))}")),
            tag("div", *map(_card, found[:most]), class_="gallery"),
        )
        for (direction, pick), found in groups.items()
    ]
    return join(*parts) if parts else None


def near_misses(entries: Sequence[Mapping[str, Any]], picture_bytes: int = PICTURE_BYTES) -> Markup | None:
    """Cards of queries whose wrong answer came close to the right one, in the form of `gallery`."""
    return gallery([{"pick": "near_miss", **entry} for entry in entries], picture_bytes)


def shortened(text: object) -> str:
    """The text, cut where it is too long for a page."""
    text = str(text)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _weight(groups: Iterable[Sequence[Mapping[str, Any]]], most: int) -> int:
    """The bytes of the pictures of the first `most` queries of each group."""
    shown = [entry for group in groups for query in group[:most] for entry in (query, *(query.get("answers") or []))]
    pictures = [entry.get("image") for entry in shown]
    return sum(len(picture) for picture in pictures if isinstance(picture, str))


def _bare(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """The query without its pictures, whose names take their place."""
    without = {**query, "answers": [_bare(answer) for answer in query.get("answers") or []]}
    return {**without, "image": None} if "image" in query else without


def _card(query: Mapping[str, Any]) -> Markup:
    answers = query.get("answers") or []
    truth = query.get("truth", query.get("text"))
    label = shortened(truth if truth is not None else query.get("key", "query"))
    if "image" in query or "image_id" in query:
        head = join(image(query.get("image"), str(query.get("key", label))), tag("p", label, class_="truth"))
    else:
        head = tag("p", label, class_="truth")
    facts = [f"{name} {number(query[name])}" for name in ("rank", "margin") if is_number(query.get(name))]
    about = tag("small", " · ".join(facts)) if facts else None
    hit = any(answer.get("correct") for answer in answers[: 1 if "margin" in query else None])  # a duel has one winner
    first = next((place for place, answer in enumerate(answers) if answer.get("correct")), len(answers))
    listed = tag("ol", *(_answer(answer, place < first) for place, answer in enumerate(answers)))
    return tag("article", tag("header", head, about), listed, class_="query hit" if hit else "query")


def _answer(answer: Mapping[str, Any], above: bool) -> Markup:
    """One answer; a wrong one is marked where it stands `above` all right ones: below them it had to be wrong."""
    mark, meaning, kind = ("✗", "wrong", "wrong") if above else ("", None, None)
    if answer.get("correct"):
        mark, meaning, kind = "✓", "right", "right"
    elif answer.get("lookalike"):
        mark, meaning, kind = "≈", "looks the same as the right one", "alike"
    text = shortened(answer.get("text", ""))
    pictured = "image" in answer or "image_id" in answer
    picture = image(answer.get("image"), str(answer.get("key", text))) if pictured else None
    score = answer.get("score")
    value = tag("span", f"{score:.3f}", class_="score") if is_number(score) else None
    sign = tag("span", mark, class_="mark", aria_label=meaning, title=meaning)
    return tag("li", sign, picture, tag("span", text, class_="text"), value, class_=kind)
