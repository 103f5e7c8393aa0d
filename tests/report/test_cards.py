"""Cards and tables of numbers: what stands on them and beside it."""

from typing import Any

import pytest

from contrastive.report.cards import (
    MOST_ON_CARDS,
    all_metrics,
    comparison_section,
    interval,
    meanings_section,
    results_section,
    signed,
)
from tests.report.toys import ATTACK, Page, result


def section(*results: dict[str, Any]) -> Page:
    return Page(results_section(results) or "")


def measured(metrics: dict[str, float], **more: object) -> dict[str, Any]:
    return result() | {"metrics": metrics, "chance": {}} | more


def test_an_interval_is_written_and_drawn_on_the_bar() -> None:
    page = section(measured({"top1": 0.75}, intervals={"top1": [0.7, 0.8125]}, chance={"top1": 0.1}))
    assert page.texts_of("div", "card") == ["top175.0\u00a0%70.0 to 81.2\u00a0%chance 10.0\u00a0%"]
    assert page.all("i") == [{"style": "--low:0.7000;--high:0.8125"}]


@pytest.mark.parametrize("ends", [None, [], [0.5], [0.1, None], [float("nan"), 1.0], "ab", 7])
def test_what_is_no_interval_is_left_out(ends: object) -> None:
    assert interval({"intervals": {"top1": ends}}, "top1", share=True) == ""


def test_an_interval_of_no_share_has_no_per_cent() -> None:
    assert interval({"intervals": {"median_rank": [2.0, 5.5]}}, "median_rank", share=False) == "2 to 5.5"


def test_an_error_without_chance_misses_nothing() -> None:
    page = section(measured({"ece": 0.25, "temperature": 1.5}))
    assert page.texts_of("div", "card") == ["ece25.0\u00a0%", "temperature1.5"]


def test_of_many_metrics_the_rest_is_in_a_table() -> None:
    metrics = {f"metric_{i}": 0.5 for i in range(40)} | {"top1": 0.25}
    page = section(measured(metrics, intervals={"top1": [0.2, 0.3]}, chance={"top1": 0.1}))
    assert page.texts_of("div", "card") == ["top125.0\u00a0%20.0 to 30.0\u00a0%chance 10.0\u00a0%"]
    assert page.texts_of("summary") == ["All 41 metrics"]
    assert page.texts_of("tr")[-1] == "top125.0\u00a0%20.0 to 30.0\u00a0%10.0\u00a0%"
    assert page.count("tr") == 42


def test_few_metrics_need_no_table() -> None:
    assert all_metrics(measured({"top1": 0.5})) is None


def test_many_results_are_rows_of_one_table() -> None:
    results = [measured({"top1": 0.5, "top5": 0.9}, dataset=f"set {i}") for i in range(MOST_ON_CARDS)]
    assert section(*results).count("table") == 0
    both = {"text_to_image_recall@1": 0.25, "image_to_text_recall@1": 0.5, "image_to_text_recall@5": 0.75}
    page = section(*results, measured(both, dataset=ATTACK, chance={"text_to_image_recall@1": 0.01}))
    assert page.texts_of("div", "card") == []
    assert page.texts_of("tr")[-2:] == [
        f"{ATTACK}zeroshotimage to text recall@150.0\u00a0%1,797",
        f"{ATTACK}zeroshottext to image recall@125.0\u00a0%1.0\u00a0%1,797",
    ]
    assert page.count("tr") == MOST_ON_CARDS + 3


def test_without_a_number_there_is_no_section() -> None:
    assert results_section([measured({}), measured({"top1": None})]) is None  # type: ignore[dict-item]


def compared(delta: float, p: float | None, metric: str = "top1", **more: object) -> dict[str, Any]:
    found = {"delta": delta, "ci95": [delta - 0.01, delta + 0.01], "p": p} | more
    return measured({metric: 0.5}, comparison={metric: found})


def test_a_comparison_shows_both_models_their_difference_and_its_certainty() -> None:
    page = Page(comparison_section([compared(0.125, 0.0123, baseline=0.375)], ATTACK) or "")
    assert page.texts_of("tr")[1] == (
        "digits · zeroshottop150.0\u00a0%37.5\u00a0%+12.5\u00a0points11.5 to 13.5\u00a0%0.012"
    )
    assert page.texts_of("h2") == [f"Against the baseline {ATTACK}"]


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (compared(0.1, 0.01), "better"),
        (compared(-0.1, 0.01), "worse"),
        (compared(0.1, 0.06), None),
        (compared(0.1, None), None),
        (compared(0.1, 0.01, "ece"), "worse"),
        (compared(-0.1, 0.01, "median_rank"), "better"),
        (compared(0.1, 0.01, "modality_gap"), None),
    ],
)
def test_only_what_is_hardly_chance_is_coloured(found: dict[str, Any], kind: str | None) -> None:
    assert Page(comparison_section([found], None) or "").all("tr")[1].get("class") == kind


def test_of_many_differences_the_rest_is_behind_a_title() -> None:
    metrics = {f"metric_{i}": 0.5 for i in range(12)} | {"top1": 0.5}
    found = {name: {"delta": 0.1, "ci95": None, "p": 0.5} for name in metrics}
    page = Page(comparison_section([measured(metrics, comparison=found)], None) or "")
    assert page.texts_of("summary") == ["12 other metrics"]
    assert [row.split("top1")[0] for row in page.texts_of("tr")[1:2]] == ["digits · zeroshot"]
    assert page.count("tr") == 15


@pytest.mark.parametrize("comparison", [{}, None, {"top1": 3}, {"top1": {"delta": None}}, {"gone": {"delta": 0.1}}])
def test_without_differences_there_is_no_comparison(comparison: object) -> None:
    assert comparison_section([measured({"top1": 0.5}, comparison=comparison)], "x") is None


@pytest.mark.parametrize(
    ("value", "shown"), [(0.021, "+2.1\u00a0points"), (-0.5, "-50.0\u00a0points"), (0, "±0.0\u00a0points")]
)
def test_a_difference_of_shares_has_its_sign_and_is_in_points(value: float, shown: str) -> None:
    assert signed(value, share=True) == shown


def test_what_the_numbers_mean_is_said_of_the_metrics_that_are_there() -> None:
    page = Page(meanings_section([measured({"top1": 0.5, "mine": 1.0}), measured({"top1": 0.25})]) or "")
    assert page.texts_of("dt") == ["top1", "chance", "95 % interval"]
    assert meanings_section([measured({"mine": 0.5})]) is None
