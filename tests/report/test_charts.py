"""Charts: which points are drawn and where, and labels that a person can read."""

import math
import re

import numpy as np
import pytest

from contrastive.report.charts import MAX_POINTS, Series, finite, line_chart, number, thin
from tests.report.toys import ATTACK, Page


def chart(*series: Series, percent: bool = False, note: str = "") -> Page:
    return Page(line_chart("title", series, percent=percent, note=note))


def drawing(*series: Series, percent: bool = False) -> str:
    return str(line_chart("title", series, percent=percent))


def line(values: list[float], label: str = "loss", level: float | None = None) -> Series:
    return Series(label, list(enumerate(values)), level)


def places(svg: str, group: str) -> np.ndarray:
    """The points of the path that a chart draws for one line, [N, 2] in the drawing's units."""
    path = re.search(rf'id="{group}">\s*<path d="([^"]+)"', svg).group(1)
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path)])


def size(svg: str) -> np.ndarray:
    return np.array([float(part) for part in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()])


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


@pytest.mark.parametrize(
    ("value", "label"), [(999_999, "1M"), (999_960_000, "1B"), (9_999.9, "10,000"), (1e12, "1000B")]
)
def test_the_unit_fits_the_rounded_number(value: float, label: str) -> None:
    assert number(value) == label


def test_a_curve_without_values_says_so() -> None:
    assert "no values were logged" in line_chart("loss", [Series("loss", [(5, float("nan"))])])


def test_a_curve_without_values_leaves_the_others_of_its_chart_alone() -> None:
    page = chart(line([math.nan], "empty"), line([1.0, 2.0], "full"))
    assert "empty" not in page.text
    assert page.count("svg") == 1


def test_points_are_placed_in_proportion_to_step_and_value() -> None:
    svg = drawing(Series("loss", [(0, 3.0), (1, 9.0), (2, 5.0), (10, 4.0)]))
    across, down = places(svg, "line0").T
    np.testing.assert_allclose((across - across[0]) / (across[3] - across[0]), [0, 0.1, 0.2, 1], atol=1e-3)
    np.testing.assert_allclose((down[0] - down) / (down[0] - down[1]), [0, 1, 1 / 3, 1 / 6], atol=1e-3)
    assert (places(svg, "line0") > 0).all()
    assert (places(svg, "line0") < size(svg)).all()


def test_the_scale_of_shares_starts_at_zero() -> None:
    assert ">0%<" in drawing(line([0.9, 0.99]), percent=True)


def test_chance_is_a_level_line_of_the_same_colour_at_its_value() -> None:
    svg = drawing(line([0.0, 1.0], "top1", level=0.25), percent=True)
    _, (zero, one) = places(svg, "line0").T
    _, heights = places(svg, "level0").T
    np.testing.assert_allclose(heights, zero + 0.25 * (one - zero), atol=0.01)
    assert svg.count("var(--c0)") >= 2


@pytest.mark.parametrize("values", [[0.0] * 3, [-3.0] * 3, [1e299, -1e299], [7e8] * 2, [1e-12] * 2, [float(10**18)]])
def test_extreme_and_constant_values_are_drawn(values: list[float]) -> None:
    svg = drawing(line(values))
    assert np.isfinite(places(svg, "line0")).all()


def test_a_number_too_large_for_an_axis_is_a_gap() -> None:
    assert finite([(1, 10**400), (2, 1e305), (3, 2)]) == [(3.0, 2.0)]


def test_the_page_can_recolour_every_part() -> None:
    svg = drawing(*[line([1.0, 2.0 + i], f"{i}") for i in range(7)])
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}  # matplotlib's default, which nothing shown has
    assert {f"var(--c{i})" for i in range(6)} | {"var(--soft)", "var(--rule)"} <= set(re.findall(r"var\(--\w+\)", svg))


def test_two_charts_of_a_page_share_no_clip_or_marker() -> None:
    ids = [set(re.findall(r"url\(#(\w+)\)", str(line_chart(title, [line([1.0, 2.0])])))) for title in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_single_line_has_its_last_value_in_the_caption_and_no_legend() -> None:
    page = chart(line([1.0, 2.25]), note="lower is better")
    assert page.texts_of("figcaption") == ["titlelower is better2.25"]
    assert page.count("ul") == 0


def test_several_lines_have_a_legend_with_their_last_values() -> None:
    page = chart(line([0.5, 0.25], "top1"), line([0.5, 0.75], "top5"), percent=True)
    assert page.texts_of("figcaption") == ["title"]
    assert page.texts_of("li") == ["top1 25.0\u00a0%", "top5 75.0\u00a0%"]


def test_chance_stands_beside_the_last_value() -> None:
    page = chart(line([0.5, 0.25], "top1", level=0.1), line([0.5, 0.75], "top5"), percent=True)
    assert page.texts_of("li") == ["top1 25.0\u00a0% chance 10.0\u00a0%", "top5 75.0\u00a0%"]
    alone = chart(line([0.5, 0.25], "top1", level=0.1), percent=True)
    assert alone.texts_of("figcaption") == ["title25.0\u00a0% chance 10.0\u00a0%"]


def test_names_stay_text_in_a_chart() -> None:
    page = Page(line_chart(ATTACK, [line([1.0], ATTACK, level=1.0), line([2.0], ATTACK)], note=ATTACK))
    assert page.count("img") == 0
    assert page.all("div", "drawing")[0]["aria-label"] == ATTACK
    assert page.text.count(ATTACK) == 4  # caption, note, two keys of the legend
