"""Drawings of a result's details: that they draw what they are given, at its place."""

import math
import re
from typing import Any

import numpy as np
import pytest

from contrastive.report import plots
from contrastive.report.plots import MOST_HUBS, MOST_PAIRS, MOST_TEMPLATES
from tests.report.toys import ATTACK, Page, rich_details


def places(svg: str, group: str) -> np.ndarray:
    """The points of the paths of a group, [N, 2], y upwards."""
    part = re.search(rf'<g id="{group}">(.*?)</g>', svg, re.DOTALL).group(1)
    points = [
        [float(x), float(y)] for x, y in re.findall(r"[ML] ?(\S+) (\S+)", " ".join(re.findall(r' d="([^"]+)"', part)))
    ]
    return np.array(points) * [1, -1]


def entry(name: str, **changes: Any) -> Any:
    return rich_details(["a", "b"])[name] | changes


def test_every_drawing_names_its_result() -> None:
    drawn = (plots.reliability(entry("reliability"), "digits · calibration"),
             plots.similarities(entry("similarity"), "digits · calibration"),
             plots.projection(entry("projection"), "digits · calibration"),
             plots.ranks(entry("ranks"), "digits · calibration"))  # fmt: skip
    labels = [Page(figure or "").all("div", "drawing")[0]["aria-label"] or "" for figure in drawn]
    assert all(label.startswith("digits · calibration: ") for label in labels)
    assert len(set(labels)) == 4


def test_the_share_of_the_images_follows_their_counts() -> None:
    counts = [0, 0, 30, 10, 0]
    details = {"edges": [0, 0.2, 0.4, 0.6, 0.8, 1.0], "count": counts, "accuracy": [None, None, 0.5, 0.9, None],
               "confidence": [None, None, 0.5, 0.7, None]}  # fmt: skip
    heights = places(str(plots.reliability(details, "x")), "shares")[:, 1]
    levels = np.unique(heights.round(2))  # 0, 0.25 and 0.75 of the way up
    np.testing.assert_allclose((levels - levels[0]) / (levels[-1] - levels[0]), [0, 1 / 3, 1], atol=0.01)


@pytest.mark.parametrize("changes", [{"count": [0] * 15}, {"count": [1]}, {"accuracy": []}])
def test_reliability_without_images_or_of_another_length_is_not_drawn(changes: dict[str, Any]) -> None:
    assert plots.reliability(entry("reliability", **changes), "x") is None


def test_histograms_are_scaled_each_to_its_own_sum() -> None:
    details = {"edges": [0.0, 0.5, 1.0], "positive": [1, 3], "negative": [3000, 1000]}
    svg = str(plots.similarities(details, "x"))
    right, wrong = (np.unique(places(svg, kind)[:, 1].round(2)) for kind in ("positive", "negative"))
    np.testing.assert_allclose(right, wrong, atol=0.02)


def test_a_kind_of_pairs_that_there_is_none_of_is_not_drawn() -> None:
    details = entry("similarity", negative=[0, 0, 0])
    assert Page(plots.similarities(details, "x") or "").texts_of("li") == ["right pairs"]
    assert plots.similarities(details | {"positive": [0, 0, 0]}, "x") is None


def test_images_texts_and_their_pairs_lie_where_they_are_projected() -> None:
    images, texts = [[0.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 3.0]]
    svg = str(plots.projection({"image": images, "text": texts, "pairs": [[0, 1]], "explained": [0.5, 0.25]}, "x"))
    dots = np.concatenate([places(svg, "images")[::2], places(svg, "texts")[::2]])
    expected = np.array(images + texts)
    scale = (dots[1] - dots[0])[0]
    np.testing.assert_allclose((dots - dots[0]) / scale, expected, atol=0.01)
    np.testing.assert_allclose(places(svg, "pairs"), [dots[0], dots[3]], atol=0.01)
    assert "50.0\u00a0% + 25.0\u00a0%" in Page(svg).text


def test_a_projection_of_many_pairs_stays_small() -> None:
    many = np.random.default_rng(0).normal(size=(5000, 2)).tolist()
    pairs = [[i, i] for i in range(5000)]
    svg = plots.projection({"image": many, "text": many, "pairs": pairs, "explained": []}, "x")
    assert len(str(svg)) < 200 * MOST_PAIRS + 20_000


def test_the_curve_of_ranks_is_drawn_on_a_logarithmic_axis() -> None:
    svg = str(plots.ranks({"image_to_text": {"k": [1, 10, 100], "share": [0.2, 0.5, 1.0]}}, "x"))
    across = places(svg, "line0")[:, 0]
    np.testing.assert_allclose(across[1] - across[0], across[2] - across[1], atol=0.01)


def test_ranks_without_points_are_not_drawn() -> None:
    assert plots.ranks({"image_to_text": {"k": [], "share": []}}, "x") is None


def test_a_probe_is_drawn_against_the_logarithm_of_its_strength() -> None:
    curve = [{"strength": 10.0**power, "val_top1": 0.5 + power / 10} for power in (-2, 0, 2)]
    across = places(str(plots.probe({"curve": curve}, "x")), "line0")[:, 0]
    np.testing.assert_allclose(across[1] - across[0], across[2] - across[1], atol=0.01)
    assert plots.probe({"curve": curve[:1]}, "x") is None


def test_few_shots_are_drawn_as_the_mean_of_their_draws() -> None:
    draws = [{"shots": 1, "top1": [0.2, 0.3]}, {"shots": 2, "top1": [0.5, 0.7]}]
    page = Page(plots.few_shot(draws, "x") or "")
    assert page.texts_of("b") == ["60.0\u00a0%"]
    assert plots.few_shot(draws[:1], "x") is None


def template(value: float | None, name: str = "{c}") -> dict[str, Any]:
    return {"template": name, "top1": value}


def test_templates_are_listed_from_the_best_to_the_worst_below_all_together() -> None:
    page = Page(
        plots.templates([template(0.25), template(0.5), template(None)], {"ensemble": 0.75, "images": 1000}) or ""
    )
    assert page.texts_of("td", "meter") == ["75.0\u00a0%", "50.0\u00a0%", "25.0\u00a0%"]
    assert page.texts_of("h3") == ["prompt templates on 1,000 images"]


def test_of_many_templates_both_ends_are_listed() -> None:
    page = Page(plots.templates([template(i / 100) for i in range(80)], {}) or "")
    assert page.count("tr") == 2 * MOST_TEMPLATES + 2  # the head, and a row that says how many are between
    assert f"{80 - 2 * MOST_TEMPLATES} between" in page.text


def test_one_template_is_no_comparison() -> None:
    assert plots.templates([template(0.5)], {"ensemble": 0.5}) is None


def test_hubs_are_named_by_text_key_or_number() -> None:
    rows = [{"document": 1, "text": ATTACK, "n": 9}, {"image_id": 2, "key": "a.jpg", "n": 8}, {"image_id": 3, "n": 7}]
    page = Page(plots.hubs(rows) or "")
    assert page.texts_of("td") == [ATTACK, "9", "a.jpg", "8", "image 3", "7"]
    assert Page(plots.hubs([{"document": i, "n": i} for i in range(99)]) or "").count("tr") == MOST_HUBS + 1
    assert plots.hubs([{"document": 1, "n": math.nan}]) is None
