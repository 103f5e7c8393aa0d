"""Escaping: what a string may say inside a page, and what it may never become."""

import base64
import io

import pytest
from PIL import Image

from contrastive.report.markup import Markup, image, join, tag
from tests.report.toys import ATTACK, PIXEL, Page


def test_tags_escape_text_and_attributes() -> None:
    assert tag("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'


def test_a_tag_inside_a_tag_is_escaped_once() -> None:
    assert tag("div", tag("p", "a & b"), " & ") == "<div><p>a &amp; b</p> &amp; </div>"


def test_a_trailing_underscore_is_dropped_and_an_inner_one_is_a_hyphen() -> None:
    assert (
        tag("i", class_="x", aria_label="y", viewBox="0 0 1 1") == '<i class="x" aria-label="y" viewBox="0 0 1 1"></i>'
    )


def test_an_attribute_that_is_none_is_left_out_and_one_that_is_zero_is_not() -> None:
    assert tag("i", class_=None, x=0) == '<i x="0"></i>'


def test_children_that_are_none_are_left_out_and_numbers_are_written() -> None:
    assert join("a", None, 0, 1.5) == "a01.5"


def test_nothing_joined_is_empty_markup() -> None:
    assert isinstance(join(), Markup)
    assert join() == ""


@pytest.mark.parametrize(
    "mixed",
    [Markup("<b>") + ATTACK, f"{Markup('<b>')}{ATTACK}", Markup("").join(["<b>", ATTACK]), Markup("%s") % ATTACK],
)
def test_markup_mixed_with_a_string_is_a_string_again(mixed: str) -> None:
    assert Page(join(mixed)).elements == []
    assert Page(join(mixed)).text == mixed


def test_every_dangerous_letter_comes_back_as_text() -> None:
    said = """<script>&amp;'"</script>"""
    page = Page(tag("p", said, title=said))
    assert page.elements == [("p", {"title": said})]
    assert page.text == said


def encoded(kind: str) -> str:
    content = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_names_its_own_format_and_keeps_its_bytes(kind: str) -> None:
    (attributes,) = Page(image(encoded(kind), "x")).all("img")
    start, content = (attributes["src"] or "").split(",")
    assert start == f"data:image/{kind.lower()};base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).format == kind


def test_a_picture_that_is_not_base64_is_a_placeholder() -> None:
    assert "<img" not in image("javascript:alert(1)", "x")
    assert "<img" in image(PIXEL, "x")


@pytest.mark.parametrize(
    "data", [None, 7, b"aaaaaaaaaaaaaaaaaaaa", "", "iVBORw0=", PIXEL + "\n", PIXEL + ATTACK, "=" * 20]
)
def test_whatever_else_is_no_picture_shows_its_label_instead(data: object) -> None:
    page = Page(image(data, "0.tar: s7"))
    assert page.elements == [("span", {"class": "no-image", "title": "0.tar: s7"})]
    assert page.text == "0.tar: s7"


@pytest.mark.parametrize("data", [PIXEL, None])
def test_the_label_of_a_picture_is_escaped(data: str | None) -> None:
    ((_, attributes),) = Page(image(data, ATTACK)).elements
    assert ATTACK in attributes.values()
