"""Drawings: they follow the page's colours, are small, and their ids do not meet."""

import re
from typing import Any

from contrastive.report.svg import INK, LINES, RULE, drawing
from tests.report.toys import ATTACK, Page


def paint(axes: Any) -> None:
    for index, colour in enumerate((INK, RULE, *LINES)):
        axes.plot([0, 1 / 3, 1], [index, index + 1 / 7, index], color=colour)


def test_every_colour_is_one_that_the_page_may_change() -> None:
    svg = drawing("title", paint)
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}  # matplotlib's default, which nothing shown has
    names = {"soft", "rule", *(f"c{index}" for index in range(len(LINES)))}
    assert set(re.findall(r"var\(--(\w+)\)", svg)) == names


def test_places_are_no_finer_than_a_screen() -> None:
    svg = drawing("title", paint)
    numbers = [number for path in re.findall(r' d="([^"]*)"', svg) for number in re.findall(r"\.(\d+)", path)]
    assert max(map(len, numbers)) == 3


def test_a_screen_reader_is_told_what_is_drawn() -> None:
    (attributes,) = Page(drawing(ATTACK, paint)).all("div")
    assert attributes == {"class": "drawing", "role": "img", "aria-label": ATTACK}


def test_drawings_of_different_titles_share_no_clip() -> None:
    clips = [set(re.findall(r'<clipPath id="(\w+)"', drawing(title, paint))) for title in ("a", "b")]
    assert clips[0].isdisjoint(clips[1])


def test_the_same_drawing_is_the_same_text() -> None:
    assert drawing("a", paint) == drawing("a", paint)
