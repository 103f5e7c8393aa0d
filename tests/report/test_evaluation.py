"""The sections about evaluations: all that is known is drawn, and nothing damaged stops a page."""

from typing import Any

import pytest

from contrastive.report.cards import MOST_ON_CARDS
from contrastive.report.evaluation import MOST_CURVES, curves_section, evaluation_sections, notes
from contrastive.report.markup import join
from tests.report.toys import PIXEL, Page, eval_row, result, rich_details

ENTRIES = [name for name in rich_details(["a", "b"]) if name != "counts"]


def drawn(*results: dict[str, Any], problems: list[str] | None = None) -> Page:
    return Page(join(*evaluation_sections(results, [] if problems is None else problems)))


def test_every_entry_of_the_details_is_drawn() -> None:
    page = drawn(result(**rich_details(["a", "b"])))
    assert page.texts_of("h3") == [
        "confusion matrix", "classes, the worst first", "prompt templates",
        "hubs answers that turn up among the first ten most often",
        "image to text the first queries of the set", "image to text the surest right answers",
        "image to text the right answer ranked last", "text to image the first queries of the set",
        "text to image the surest right answers", "text to image the right answer ranked last",
        "image to text wrong by the smallest margin",
    ]  # fmt: skip
    assert page.texts_of("figcaption")[0].startswith("reliability")
    assert page.count("svg") == 6


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_alone_makes_a_section(name: str) -> None:
    assert drawn(result(**{name: rich_details(["a", "b"])[name]})).texts_of("h2") == ["digits · zeroshot 1,797 samples"]


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("damage", [7, "text", [None], [[1]], {"edges": 3}, {"k": "x"}, {"classes": 1, "counts": 2}])
def test_a_damaged_entry_is_named_or_left_out_and_the_rest_is_drawn(name: str, damage: object) -> None:
    problems: list[str] = []
    good = "templates" if name != "templates" else "hubs"
    page = drawn(result(**rich_details(["a", "b"]) | {name: damage}), problems=problems)
    assert {"templates": "prompt templates", "hubs": "answers that turn up"}[good] in page.text
    assert all(text.startswith(f"digits · zeroshot: details.{name} cannot be drawn (") for text in problems)
    assert len(problems) <= 1


def test_numbers_alone_make_no_section() -> None:
    assert evaluation_sections([result(), result() | {"details": None}], []) == []


def test_of_many_results_each_is_behind_its_name() -> None:
    results = [result(hubs=[{"document": 1, "n": 1}]) | {"dataset": f"set {i}"} for i in range(MOST_ON_CARDS + 1)]
    page = drawn(*results)
    assert page.count("section") == 0
    assert page.texts_of("summary")[0] == "set 0 · zeroshot 1,797 samples"


def test_pictures_are_shared_out_among_many_results() -> None:
    picture = PIXEL * 8_000  # 800 kB
    query = {"image": picture[:-4], "answers": []}
    assert len(join(*evaluation_sections([result(gallery=[query] * 4) for _ in range(3)], []))) < 4_000_000


def test_a_reader_is_told_of_warnings_errors_unreadable_images_and_missing_values() -> None:
    row = result() | {
        "warnings": ["w"],
        "error": "no data",
        "unreadable": list("abcdefg"),
        "reasons": {"top1": "infinite"},
    }
    assert notes([row, row]) == [
        "digits · zeroshot: w",
        "digits · zeroshot failed: no data",
        "digits: 7 images could not be read and are left out: a, b, c, d, e and 2 more",
        "digits · zeroshot: top1 has no value: infinite",
    ]


def test_a_section_of_curves_has_an_end() -> None:
    rows = [eval_row(1, dataset=f"set {i}") for i in range(MOST_CURVES + 3)]
    page = Page(curves_section("Curves", rows) or "")
    assert page.count("svg") == MOST_CURVES
    assert "3 more charts are left out" in page.text


def test_without_rows_there_are_no_curves() -> None:
    assert curves_section("Curves", []) is None
    assert curves_section("Curves", [eval_row(1, metrics={})]) is None
