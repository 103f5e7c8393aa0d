"""Charts: which points are drawn and where, and labels that a person can read."""

import math
import re

import numpy as np
import pytest

from contrastive.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    finite,
    line_chart,
    number,
    thin,
    tick_labels,
    ticks,
)
from tests.report.toys import ATTACK, Page


def chart(*series: Series, percent: bool = False, note: str = "") -> Page:
    return Page(line_chart("title", series, percent=percent, note=note))


def line(values: list[float], label: str = "loss", level: float | None = None) -> Series:
    return Series(label, list(enumerate(values)), level)


def places(path: dict[str, str | None]) -> list[tuple[float, float]]:
    """The points of an SVG path that consists of straight lines."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([^L]+)", path["d"] or "")]


def scale_labels(page: Page, anchor: str) -> list[str]:
    texts = zip(page.all("text"), page.texts_of("text"), strict=True)
    return [text for attributes, text in texts if attributes["text-anchor"] == anchor]


def test_only_pairs_of_finite_numbers_are_points() -> None:
    kept = finite([(1, 2), (2, None), (None, 2), (3, math.nan), (4, math.inf), (5, "6"), (6, True), (7, 0.0)])
    assert kept == [(1.0, 2.0), (7.0, 0.0)]


def test_thinning_keeps_the_ends_and_the_mean() -> None:
    points = [(float(x), float(x)) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= 300
    assert thinned[-1] == points[-1]
    assert all(x == y for x, y in thinned)


def test_thinning_leaves_few_points_as_they_are() -> None:
    points = [(float(x), math.sin(x)) for x in range(MAX_POINTS)]
    assert thin(points) == points


def test_thinning_gives_the_means_of_neighbours() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    thinned = thin([tuple(point) for point in points], most=11)
    np.testing.assert_allclose(thinned, [*points.reshape(10, 3, 2).mean(1), points[-1]])


@pytest.mark.parametrize("count", [1, 10, 11, 12, 99, 100, 101, 1234])
def test_thinning_never_gives_more_than_asked(count: int) -> None:
    assert len(thin([(float(x), 0.0) for x in range(count)], most=11)) <= 11


RANGES = [(0.0, 1.0), (3.0, 3.0), (-2.5, 7e6), (1e-5, 3e-5), (-1.0, -0.3), (12.5, 13.1), (1.0, 48_000.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) + 1e-12 for tick in found if high > 0)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found if high <= 0)


@pytest.mark.parametrize(("low", "high"), [pair for pair in RANGES if pair[0] < pair[1]])
def test_ticks_are_every_multiple_of_one_two_or_five_in_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    step = found[1] - found[0]
    assert f"{step:.6e}"[:8] in ("1.000000", "2.000000", "5.000000")
    np.testing.assert_allclose(np.diff(found), step)
    np.testing.assert_allclose(np.array(found) / step, np.round(np.array(found) / step), atol=1e-6)
    assert found[0] - step < low
    assert found[-1] + step > high


def test_tick_labels_tell_neighbours_apart() -> None:
    assert tick_labels([14.20, 14.25, 14.30]) == ["14.20", "14.25", "14.30"]
    assert tick_labels([0.0, 0.2], percent=True) == ["0\u00a0%", "20\u00a0%"]
    assert tick_labels([0.0, 50_000.0]) == ["0", "50k"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 0.001, 0.002], ["0.000", "0.001", "0.002"]),
        ([0.0, 2_000.0, 4_000.0], ["0", "2,000", "4,000"]),
        ([-0.5, 0.0, 0.5], ["-0.5", "0.0", "0.5"]),
        ([0.0, 1e-6, 2e-6], ["0", "1e-06", "2e-06"]),
        ([0.305, 0.310], ["30.5\u00a0%", "31.0\u00a0%"]),
        ([3.0], ["3"]),
    ],
)
def test_tick_labels_have_the_digits_of_their_step(values: list[float], labels: list[str]) -> None:
    assert tick_labels(values, percent="%" in labels[0]) == labels


def test_numbers_are_short() -> None:
    assert [number(0.0004, percent=True), number(1_234_567), number(0.002), number(450)] == [
        "0.04\u00a0%", "1.23M", "0.002", "450",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"), (5e-5, "5e-05"), (1.23456, "1.23"), (99.9, "99.9"), (-450.0, "-450"), (9_999, "9,999"),
        (12_345, "12.3k"), (-2e6, "-2M"), (3.4e9, "3.4B"),
    ],
)  # fmt: skip
def test_a_number_has_three_digits_and_the_letter_of_its_size(value: float, label: str) -> None:
    assert number(value) == label


@pytest.mark.parametrize(("share", "label"), [(0.0, "0.0"), (1.0, "100.0"), (0.1234, "12.3"), (0.0012, "0.12")])
def test_a_share_is_a_percentage_with_digits_that_fit(share: float, label: str) -> None:
    assert number(share, percent=True) == f"{label}\u00a0%"


def test_a_curve_of_one_value_is_drawn() -> None:
    assert "<circle" in line_chart("loss", [Series("loss", [(5, 2.0)])])


def test_a_curve_without_values_says_so() -> None:
    assert "no values were logged" in line_chart("loss", [Series("loss", [(5, float("nan"))])])


def test_a_curve_without_values_leaves_the_others_of_its_chart_alone() -> None:
    page = chart(line([math.nan], "empty"), line([1.0, 2.0], "full"))
    assert page.count("path") == 1
    assert "empty" not in page.text


def test_a_line_fills_the_chart_from_side_to_side_and_stays_inside() -> None:
    (path,) = chart(line([3.0, 9.0, 5.0, 4.0])).all("path")
    across, down = zip(*places(path), strict=True)
    np.testing.assert_allclose(across, np.linspace(LEFT, WIDTH - RIGHT, 4), atol=0.05)
    assert down.index(min(down)) == 1  # the highest value has the smallest y
    assert min(down) >= TOP
    assert max(down) <= HEIGHT - BOTTOM


def test_a_value_lies_on_the_grid_line_that_names_it() -> None:
    page = chart(line([0.0, 0.2, 0.4, 1.0], "top1"), percent=True)
    heights = [float(attributes["y1"] or "") for attributes in page.all("line", "grid")]
    height_of = dict(zip(scale_labels(page, "end"), heights, strict=True))
    dots = [float(attributes["cy"] or "") for attributes in page.all("circle")]
    assert dots == [height_of[f"{share}\u00a0%"] for share in (0, 20, 40, 100)]


def test_the_scale_starts_at_zero_where_that_costs_little_room() -> None:
    assert scale_labels(chart(line([1.0, 4.0])), "end")[0] == "0"


def test_a_scale_of_values_far_from_zero_starts_near_them() -> None:
    assert float(scale_labels(chart(line([98.0, 99.0])), "end")[0]) >= 97


def test_a_scale_of_shares_starts_at_zero() -> None:
    assert scale_labels(chart(line([0.98, 0.99]), percent=True), "end")[0] == "0\u00a0%"


def test_negative_values_are_inside_the_chart() -> None:
    (path,) = chart(line([-5.0, -1.0])).all("path")
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in places(path))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-12, 7e8])
@pytest.mark.parametrize("percent", [False, True])
def test_a_curve_that_never_moves_is_inside_the_chart(value: float, percent: bool) -> None:
    (path,) = chart(line([value] * 3), percent=percent and value >= 0).all("path")
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in places(path))


def test_chance_is_a_level_line_of_the_same_colour_with_its_value() -> None:
    page = chart(line([0.2, 0.3], "top1", level=0.5), percent=True)
    (level,) = page.all("path", "level")
    (x1, y1), (x2, y2) = places(level)
    assert (x1, x2, y1) == (LEFT, WIDTH - RIGHT, y2)
    assert TOP <= y1 < min(float(attributes["cy"] or "") for attributes in page.all("circle"))  # above all values
    assert (level["class"] or "").split() == ["line", "c0", "level"]
    assert "top1: chance 50.0\u00a0%" in page.texts_of("path", "level")


@pytest.mark.parametrize(("count", "dots"), [(60, 60), (61, 0)])
def test_dots_stand_on_lines_that_are_not_dense(count: int, dots: int) -> None:
    assert chart(line([float(x) for x in range(count)])).count("circle") == dots


def test_a_dot_tells_its_value_and_step() -> None:
    assert chart(Series("loss", [(1_000, 2.5)])).texts_of("circle") == ["loss 2.5 at 1,000"]


def test_a_single_line_has_its_last_value_in_the_caption_and_no_legend() -> None:
    page = chart(line([1.0, 2.25]), note="lower is better")
    assert page.texts_of("figcaption") == ["titlelower is better2.25"]
    assert page.count("ul") == 0


def test_several_lines_have_a_legend_with_their_last_values() -> None:
    page = chart(line([0.5, 0.25], "top1"), line([0.5, 0.75], "top5"), percent=True)
    assert page.texts_of("figcaption") == ["title"]
    assert page.texts_of("li") == ["top1 25.0\u00a0%", "top5 75.0\u00a0%"]


def test_the_seventh_line_has_the_colour_of_the_first() -> None:
    classes = [attributes["class"] for attributes in chart(*[line([1.0, 2.0], f"{i}") for i in range(7)]).all("path")]
    assert classes == [f"line c{i}" for i in (0, 1, 2, 3, 4, 5, 0)]


def test_names_stay_text_in_a_chart() -> None:
    page = Page(line_chart(ATTACK, [line([1.0], ATTACK, level=1.0), line([2.0], ATTACK)], note=ATTACK))
    assert page.count("img") == 0
    assert page.all("svg")[0]["aria-label"] == ATTACK
    assert page.text.count(ATTACK) == 7  # caption, note, two dots, one level, two keys of the legend
