"""Confusion matrices and worst classes: what is drawn, in what order, and when it is too much."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.report.classes import MOST_CLASSES, MOST_CLASSES_IN_TABLE, MOST_CONFUSIONS, confusion, worst_classes
from tests.report.toys import ATTACK, Page


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


def test_many_classes_become_a_picture_and_a_list_of_the_commonest_confusions() -> None:
    pairs = [{"label": "class 3", "predicted": "class 5", "n": 30}]
    page = Page(confusion(many(40, pairs=pairs)) or "")
    assert page.texts_of("h3") == ["confusion matrix 40 classes", "commonest confusions"]
    assert page.texts_of("td") == ["class 3", "class 5", "30"]


def test_the_picture_has_a_pixel_a_cell_whose_opacity_grows_with_its_share_of_the_row() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (30, 30))
    counts[4] = 0
    page = Page(confusion({"classes": ["x"] * 30, "counts": counts.tolist()}) or "")
    content = base64.b64decode((page.all("img")[0]["src"] or "").partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(pixels[..., 3], 255 * np.sqrt(shares), atol=0.51)
    assert len(np.unique(pixels[np.eye(30, dtype=bool)][:, :3], axis=0)) == 1


@pytest.mark.parametrize(("more", "cells"), [(0, MOST_CLASSES_IN_TABLE**2), (1, 0)])
def test_the_matrix_gives_way_to_the_picture_when_it_has_too_many_classes(more: int, cells: int) -> None:
    assert Page(confusion(many(MOST_CLASSES_IN_TABLE + more)) or "").count("td") == cells


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
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert ATTACK in page.text


def known(name: str, **more: object) -> dict[str, Any]:
    return {"name": name, "n": 1200, "recall": 0.5, "precision": 0.25} | more


def test_the_worst_classes_come_first_with_what_they_are_taken_for() -> None:
    wrong = {"name": "dog", "n": 7}
    page = Page(worst_classes([known("a"), known("b", recall=0.125, top_confusion=wrong, precision=None)]) or "")
    assert page.texts_of("th") == ["class", "images", "recall", "precision", "most often taken for"]
    assert page.texts_of("td") == ["b", "1,200", "12.5\u00a0%", "", "dog (7 ×)", "a", "1,200", "50.0\u00a0%",
                                   "25.0\u00a0%", ""]  # fmt: skip
    assert page.all("span", "bar")[0]["style"] == "--value:0.1250"


def test_a_class_without_images_is_not_among_the_worst() -> None:
    page = Page(worst_classes([known("a"), known("b", recall=None, n=0)]) or "")
    assert [row.startswith("a") for row in page.texts_of("tr")[1:]] == [True]


def test_of_many_classes_only_the_worst_are_listed() -> None:
    page = Page(worst_classes([known(f"{i:02}", recall=i / 100) for i in reversed(range(40))]) or "")
    assert page.texts_of("h3") == [f"{MOST_CLASSES} worst classes of 40"]
    assert [row[:2] for row in page.texts_of("tr")[1:]] == [f"{i:02}" for i in range(MOST_CLASSES)]


def test_classes_of_several_labels_are_listed_by_their_average_precision() -> None:
    page = Page(worst_classes([{"name": name, "n": 3, "average_precision": 0.5} for name in "ab"]) or "")
    assert page.texts_of("th") == ["class", "images", "average precision"]


@pytest.mark.parametrize("rows", [[], [known("a")], [known("a", recall=None), known("b", recall=None)]])
def test_without_several_classes_to_compare_there_is_no_list(rows: list[dict[str, Any]]) -> None:
    assert worst_classes(rows) is None


def test_names_in_the_list_of_classes_stay_text() -> None:
    page = Page(worst_classes([known(ATTACK, top_confusion={"name": ATTACK, "n": 1}), known(ATTACK)]) or "")
    assert page.count("img") == 0
    assert page.text.count(ATTACK) == 3
