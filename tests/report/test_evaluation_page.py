"""The page of an evaluation: what stands on it, that it stays small, and what a browser makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import RunError
from contrastive.report import write_evaluation_report, write_report
from tests.report.browser import CHROMIUM, Browser
from tests.report.toys import ATTACK, Page, rich_details, write_evaluation, written_result

SCRIPT = "<script>document.title = 'taken over'</script>"
HEBREW, CHINESE = "כלב על החוף", "一只坐在沙发上的猫"
TEXTS = [SCRIPT, ATTACK, HEBREW, CHINESE]
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def page_of(folder: Path) -> Page:
    return Page(write_evaluation_report(folder).read_text(encoding="utf-8"))


def checkpoint(step: int) -> dict[str, Any]:
    metrics = {"top1": {"value": step / 100, "ci95": None, "chance": 0.1}}
    return {"name": f"{step}", "step": step, "results": [written_result({}, metrics=metrics)]}


def rich(folder: Path) -> Path:
    compared = {"top1": {"delta": 0.02, "ci95": [0.01, 0.03], "p": 0.01, "baseline": 0.73}}
    results = [written_result(rich_details(TEXTS), comparison=compared), written_result({}, dataset=ATTACK)]
    return write_evaluation(folder, *results, baseline=ATTACK, checkpoints=[checkpoint(20), checkpoint(75)])


def test_a_page_has_all_sections_in_the_order_of_interest(tmp_path: Path) -> None:
    page = page_of(rich(tmp_path))
    assert page.texts_of("h2") == [
        "Results", f"Against the baseline {ATTACK}", "Over the checkpoints", "How it was measured",
        "digits · zeroshot 1,797 samples",
    ]  # fmt: skip
    assert page.texts_of("h1") == ["ViT-B-32"]
    assert page.texts_of("dd", None)[-2:] == ["abababababab…", "fp32"]
    assert page.texts_of("summary") == ["What do these numbers mean?", "Model", "Environment"]


def test_a_model_card_is_written_beside_the_page(tmp_path: Path) -> None:
    write_evaluation_report(rich(tmp_path))
    assert "| digits | zeroshot | top1 | 75.0\u00a0% | 70.0 to 80.0\u00a0% |" in (tmp_path / "report.md").read_text()


def test_data_stays_text(tmp_path: Path) -> None:
    hostile = {"warnings": [ATTACK], "unreadable": [ATTACK], "error": ATTACK, "task": ATTACK}
    changes = {"model": {"name": ATTACK, "form": ATTACK, ATTACK: ATTACK}, "created": ATTACK, "environment": {ATTACK: 1}}
    details = rich_details(TEXTS, ATTACK)
    metrics = {ATTACK: {"value": 0.5, "ci95": None, "chance": None}}
    page = page_of(write_evaluation(tmp_path, written_result(details, metrics=metrics, **hostile), **changes))
    assert page.count("script") == 0
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.count("img") == 0
    assert page.text.count(ATTACK) > 20


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": "another/1"}'])
def test_results_that_are_not_there_are_named_on_the_page(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    page = page_of(tmp_path)
    assert page.texts_of("h2") == ["Notes"]
    assert page.texts_of("li")[0].startswith("results.json")


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere.*eval_zeroshot\.py --output"):
        write_evaluation_report(tmp_path / "nowhere")


def test_a_large_suite_makes_a_page_below_5_megabytes(tmp_path: Path) -> None:
    names = [f"class {i} with a name of some length" for i in range(1000)]
    picture = "UklGR" + "A" * 8_000
    shown = ("gallery", "near_misses", "projection", "similarity", "templates")
    details = {name: entry for name, entry in rich_details(names[:20], picture).items() if name in shown} | {
        "per_class": [
            {"name": name, "n": 50, "recall": 0.5, "precision": 0.5, "top_confusion": None} for name in names
        ],
        "confusion": {"classes": [], "counts": [], "pairs": [{"label": "a", "predicted": "b", "n": 1}] * 40},
    }
    metrics = {f"metric_{i}": {"value": 0.5, "ci95": [0.4, 0.6], "chance": 0.1} for i in range(40)}
    results = [written_result(details, dataset=f"set {i}", metrics=metrics) for i in range(40)]
    path = write_evaluation_report(write_evaluation(tmp_path, *results))
    assert path.stat().st_size < 5_000_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def run_directory(folder: Path) -> Path:
    """A run whose final evaluation is the rich one."""
    write_evaluation(folder, written_result(rich_details(TEXTS)))
    (folder / "results.json").rename(folder / "evaluation.json")
    (folder / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": 1.0}) + "\n")
    return folder


@NEEDS_BROWSER
@pytest.mark.parametrize(("make", "write"), [(rich, write_evaluation_report), (run_directory, write_report)])
def test_a_browser_shows_every_picture_complains_of_nothing_and_asks_for_nothing(
    tmp_path: Path, browser: Browser, make: Any, write: Any
) -> None:
    page = write(make(tmp_path))
    browser.open(page)
    assert browser.evaluate("document.images.length") > 10
    assert browser.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length") == 0
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(svg => svg.getBBox().width > 0)")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:image/")] == [page.resolve().as_uri()]


@NEEDS_BROWSER
def test_a_browser_shows_a_caption_of_html_as_text(tmp_path: Path, browser: Browser) -> None:
    browser.open(write_evaluation_report(rich(tmp_path)))
    assert browser.evaluate("document.title") == "ViT-B-32: evaluation"
    assert browser.evaluate("document.scripts.length") == 0
    shown = browser.evaluate("[...document.querySelectorAll('.text')].map(element => element.textContent)")
    assert {SCRIPT, ATTACK, HEBREW, CHINESE} <= set(shown)


@NEEDS_BROWSER
def test_a_text_that_is_read_from_the_right_stands_at_the_right(tmp_path: Path, browser: Browser) -> None:
    browser.open(write_evaluation_report(rich(tmp_path)))
    ends = f"""[...document.querySelectorAll('.text')].filter(one => one.textContent == {HEBREW!r}).map(element => {{
        const range = document.createRange(); range.selectNodeContents(element);
        return element.getBoundingClientRect().right - range.getBoundingClientRect().right; }})"""
    assert all(abs(gap) < 1 for gap in browser.evaluate(ends))


@NEEDS_BROWSER
def test_nothing_sticks_out_of_a_phone(tmp_path: Path, browser: Browser) -> None:
    long = ["x" * 500, "a name of many words " * 30, *TEXTS]
    metrics = {f"metric_{'x' * 80}_{i}": {"value": 0.5, "ci95": [0.4, 0.6], "chance": 0.1} for i in range(3)}
    row = written_result(rich_details(long), metrics=metrics, dataset="y" * 200)
    browser.open(write_evaluation_report(write_evaluation(tmp_path, row)), width=400)
    assert browser.evaluate("document.documentElement.scrollWidth") == 400


@NEEDS_BROWSER
def test_the_dark_page_has_its_own_colours_in_text_and_drawings(tmp_path: Path, browser: Browser) -> None:
    page = write_evaluation_report(rich(tmp_path))
    seen = []
    for dark in (False, True):
        browser.open(page, dark=dark)
        line = "getComputedStyle(document.querySelector('#line0 path')).stroke"
        seen.append(browser.evaluate(f"[getComputedStyle(document.body).backgroundColor, {line}]"))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
