"""The retrievals on a page: how queries and answers, right and wrong, are told apart."""

from typing import Any

import pytest

from contrastive.report.gallery import LONGEST_TEXT, gallery, near_misses
from tests.report.toys import ATTACK, PIXEL, Page


def shown(*queries: dict[str, Any]) -> Page:
    return Page(gallery(queries) or "")


def answered(*answers: dict[str, Any], **query: object) -> Page:
    return shown({"text": "A", "answers": answers} | query)


def test_an_evaluation_without_queries_has_no_gallery() -> None:
    assert gallery([]) is None
    assert near_misses([]) is None


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


def test_a_wrong_answer_is_marked_where_it_stands_above_the_right_one() -> None:
    page = answered({"text": "b"}, {"text": "a", "correct": True}, {"text": "c", "correct": False})
    assert page.all("li") == [{"class": "wrong"}, {"class": "right"}, {}]
    assert page.texts_of("span", "mark") == ["✗", "✓", ""]


def test_where_no_answer_is_right_all_are_wrong() -> None:
    assert answered({"text": "b"}, {"text": "c"}).all("li") == [{"class": "wrong"}, {"class": "wrong"}]


@pytest.mark.parametrize(("first", "kind"), [(True, "query hit"), (False, "query")])
def test_a_duel_is_won_by_its_first_answer(first: bool, kind: str) -> None:
    answers = [{"text": "a", "correct": first}, {"text": "b", "correct": not first}]
    page = Page(near_misses([{"text": "a", "margin": -0.0125, "rank": 2, "answers": answers}]) or "")
    assert page.all("article") == [{"class": kind}]
    assert page.texts_of("small")[-1] == "rank 2 · margin -0.0125"
    assert page.texts_of("h3") == [" wrong by the smallest margin"]


def test_pictures_beyond_what_a_page_holds_leave_queries_out_evenly() -> None:
    queries = [{"direction": way, "image": PIXEL, "text": f"{way}{i}"} for i in range(4) for way in ("a", "b")]
    page = Page(gallery(queries, picture_bytes=5 * len(PIXEL)) or "")
    assert page.texts_of("article") == ["a0", "a1", "b0", "b1"]
    page = Page(gallery(queries, picture_bytes=1) or "")
    assert (page.count("article"), page.count("img"), page.texts_of("span", "no-image")) == (2, 0, ["a0", "b0"])


def test_a_text_without_end_is_cut() -> None:
    (shown_text,) = answered({"text": "x" * 10_000}).texts_of("span", "text")
    assert len(shown_text) == LONGEST_TEXT


def test_an_answer_shows_its_text_and_its_score_to_three_digits() -> None:
    page = answered({"text": "digit seven", "score": 0.31249}, {"text": "digit one"})
    assert page.texts_of("li") == ["✗digit seven0.312", "✗digit one"]


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
