"""The pictures of an evaluation: how queries, answers and confusions are told apart."""

from typing import Any

import pytest

from contrastive.report.gallery import MOST_CLASSES_IN_TABLE, MOST_CONFUSIONS, confusion, gallery
from tests.report.toys import ATTACK, PIXEL, Page


def shown(*queries: dict[str, Any]) -> Page:
    return Page(gallery(queries) or "")


def answered(*answers: dict[str, Any], **query: object) -> Page:
    return shown({"text": "A", "answers": answers} | query)


def test_an_evaluation_without_queries_has_no_gallery() -> None:
    assert gallery([]) is None


def test_queries_stand_under_their_direction_and_why_they_were_picked() -> None:
    kinds = [
        ("image_to_text", "best"),
        ("image_to_text", "worst"),
        ("text_to_image", "mine"),
        ("image_to_text", "best"),
    ]
    page = shown(*({"direction": way, "pick": pick, "text": f"{i}"} for i, (way, pick) in enumerate(kinds)))
    assert page.texts_of("h3") == [
        "image to text the surest right answers", "image to text the right answer ranked last", "text to image mine",
    ]  # fmt: skip
    assert page.texts_of("div", "gallery") == ["03", "1", "2"]


@pytest.mark.parametrize(("claims", "hit"), [([False, True], True), ([False, False], False), ([], False)])
def test_a_query_is_a_hit_where_one_of_its_answers_is_right(claims: list[bool], hit: bool) -> None:
    page = answered(*({"text": "x", "correct": claim} for claim in claims))
    assert page.all("article") == [{"class": "query hit" if hit else "query"}]


def test_a_lookalike_is_marked_apart_from_a_right_answer() -> None:
    page = answered({"text": "greek alpha", "correct": False, "lookalike": True}, {"text": "latin a", "correct": True})
    assert [attributes.get("class") for attributes in page.all("li")] == ["alike", "right"]
    assert page.texts_of("span", "mark") == ["≈", "✓"]
    assert [mark["aria-label"] for mark in page.all("span", "mark")] == ["looks the same as the right one", "right"]


def test_a_right_answer_that_also_looks_alike_is_right() -> None:
    assert answered({"text": "a", "correct": True, "lookalike": True}).all("li") == [{"class": "right"}]


def test_a_wrong_answer_has_no_mark() -> None:
    page = answered({"text": "b", "correct": False})
    assert page.all("li") == [{}]
    assert page.all("span", "mark") == [{"class": "mark"}]


def test_an_answer_shows_its_text_and_its_score_to_three_digits() -> None:
    page = answered({"text": "digit seven", "score": 0.31249}, {"text": "digit one"})
    assert page.texts_of("li") == ["digit seven0.312", "digit one"]


def test_a_rank_is_shown_where_it_is_known() -> None:
    assert shown({"text": "a", "rank": 4.5}, {"text": "b"}).texts_of("article") == ["arank 4.5", "b"]


def test_a_query_by_image_shows_the_picture_above_its_truth() -> None:
    page = answered(image=PIXEL, key="0.tar: s1", truth="digit one")
    assert [(picture["alt"], (picture["src"] or "")[-20:]) for picture in page.all("img")] == [
        ("0.tar: s1", PIXEL[-20:])
    ]
    assert page.texts_of("p", "truth") == ["digit one"]


@pytest.mark.parametrize(
    ("query", "truth"), [({"truth": None, "key": "s1"}, "s1"), ({"key": "s1"}, "s1"), ({}, "query")]
)
def test_a_query_without_truth_is_named_by_its_key(query: dict[str, str | None], truth: str) -> None:
    assert shown({"image": PIXEL} | query).texts_of("p", "truth") == [truth]


def test_a_query_by_text_has_no_picture_and_its_answers_have() -> None:
    page = answered({"image": PIXEL, "key": "s1", "text": "one"})
    assert [picture["alt"] for picture in page.all("img")] == ["s1"]
    assert page.texts_of("header") == ["A"]


def test_pictures_that_were_not_saved_leave_named_places() -> None:
    page = shown({"image_id": 3, "key": "s3", "answers": [{"image_id": 4, "key": "s4", "text": "four"}]})
    assert page.texts_of("span", "no-image") == ["s3", "s4"]
    assert page.count("img") == 0


def test_texts_of_queries_and_answers_stay_text() -> None:
    page = answered({"text": ATTACK, "image": ATTACK, "key": ATTACK}, direction=ATTACK, pick=ATTACK, truth=ATTACK)
    assert page.count("img") == 0
    assert page.text.count(ATTACK.replace("_", " ")) == 5  # direction, pick, truth, the answer's picture and its text


def test_the_matrix_has_a_row_a_class_with_its_counts() -> None:
    page = Page(confusion({"classes": ["cat", "dog"], "counts": [[9, 1], [0, 8]]}) or "")
    assert page.texts_of("th") == ["true \\ predicted", "cat", "dog", "cat", "dog"]
    assert page.texts_of("td") == ["9", "1", "", "8"]  # a zero is an empty cell
    assert [cell["class"] for cell in page.all("td")] == ["good", "bad", "bad", "good"]


def test_the_colour_of_a_cell_is_its_share_of_the_row() -> None:
    counts = [[3, 1, 0], [0, 0, 0], [2, 2, 4]]
    page = Page(confusion({"classes": ["a", "b", "c"], "counts": counts}) or "")
    shares = [n / sum(row) if n else None for row in counts for n in row]
    assert [cell.get("style") for cell in page.all("td")] == [None if s is None else f"--share:{s:.3f}" for s in shares]


def many(classes: int, **entries: object) -> dict[str, Any]:
    return {"classes": [f"class {i}" for i in range(classes)], "counts": [[1] * classes] * classes} | entries


def test_many_classes_become_a_list_of_the_commonest_confusions() -> None:
    pairs = [{"label": "class 3", "predicted": "class 5", "n": 30}]
    page = Page(confusion(many(40, pairs=pairs)) or "")
    assert page.count("tr") == 2
    assert "class 5" in page.text
    assert page.texts_of("td") == ["class 3", "class 5", "30"]


@pytest.mark.parametrize(("more", "title"), [(0, "confusion matrix"), (1, "commonest confusions")])
def test_the_matrix_gives_way_to_the_list_when_it_has_too_many_classes(more: int, title: str) -> None:
    pairs = [{"label": "a", "predicted": "b", "n": 1}]
    page = Page(confusion(many(MOST_CLASSES_IN_TABLE + more, pairs=pairs)) or "")
    assert page.texts_of("h3") == [title]


@pytest.mark.parametrize("counts", [[], [[1]], [[1, 2]], [[1, 2], [3]]])
def test_counts_that_do_not_fit_the_classes_are_not_drawn(counts: list[list[int]]) -> None:
    details = {"classes": ["a", "b"], "counts": counts}
    assert confusion(details) is None
    pairs = [{"label": "a", "predicted": "b", "n": 3}]
    assert Page(confusion(details | {"pairs": pairs}) or "").texts_of("h3") == ["commonest confusions"]


def test_the_list_of_confusions_ends_somewhere() -> None:
    pairs = [{"label": f"{i}", "predicted": "x", "n": 90 - i} for i in range(MOST_CONFUSIONS + 5)]
    page = Page(confusion({"pairs": pairs}) or "")
    assert page.texts_of("td", "number") == [f"{90 - i}" for i in range(MOST_CONFUSIONS)]


def test_a_task_without_classes_has_no_confusion() -> None:
    assert confusion({}) is None


@pytest.mark.parametrize("classes", [2, 30])
def test_names_of_classes_stay_text(classes: int) -> None:
    pairs = [{"label": ATTACK, "predicted": ATTACK, "n": 1}]
    page = Page(confusion(many(classes, pairs=pairs) | {"classes": [ATTACK] * classes}) or "")
    assert page.count("img") == 0
    assert ATTACK in page.text
