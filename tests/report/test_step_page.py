import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import RunError
from contrastive.report.gallery import PICTURE_BYTES
from contrastive.report.step_page import write_step_page
from tests.report.browser import CHROMIUM, Browser
from tests.report.toys import ATTACK, PIXEL, Page

NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def report(**changes: Any) -> dict[str, Any]:
    sample = {"key": "a/b", "caption": "a red house", "note": "cosine 0.12", "image": PIXEL}
    return {
        "title": "Filter", "command": ["contrastive", "data", "filter"], "samples": 2000, "kept": 1500,
        "dropped": {"too small": 100, "not English": 400}, "figures": {"seconds": 1.25, "shards": 1200},
        "histograms": {"side": {"edges": [0, 1, 2], "counts": [3, 4], "limit": 1.5}},
        "examples": {"kept": [sample], "too small": [sample, sample]}, "notes": ["mind the gap"],
        "provenance": {"fingerprint": "abc"}, **changes,
    }  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    (folder / "report.json").write_text(json.dumps(content))
    return write_step_page(folder / "report.json", folder / "report.html")


def page_of(folder: Path, content: Any) -> Page:
    return Page(written(folder, content).read_text())


def test_a_page_says_what_became_of_the_samples_the_most_first(tmp_path: Path):
    page = page_of(tmp_path, report())
    assert page.texts_of("h1") == ["Filter"]
    assert page.texts_of("h2") == ["Notes", "2,000 samples", "Figures", "Distributions", "Examples"]
    assert page.texts_of("tr")[1:] == [
        "kept1,50075.0\u00a0%", "not English40020.0\u00a0%", "too small1005.0\u00a0%"
    ]  # fmt: skip
    assert page.texts_of("dd") == ["1.25", "1,200"]
    assert page.texts_of("figcaption") == ["sidelimit 1.5"]
    assert page.texts_of("h3") == ["kept", "too small"]
    assert page.count("article") == page.count("img") == 3
    assert "contrastive data filter" in page.text


def test_data_stays_text(tmp_path: Path):
    sample = {"key": ATTACK, "caption": ATTACK, "note": ATTACK, "image": ATTACK}
    hostile = {"dropped": {ATTACK: 1}, "figures": {ATTACK: ATTACK}, "notes": [ATTACK], "examples": {ATTACK: [sample]}}
    page = page_of(tmp_path, report(**hostile, title=ATTACK, command=[ATTACK], provenance={ATTACK: ATTACK}))
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(ATTACK) >= 8


@pytest.mark.parametrize("content", [{}, {"dropped": [1], "examples": {"kept": [3, None]}, "histograms": {"a": 1}}])
def test_what_is_missing_is_left_out(content: Any, tmp_path: Path):
    assert page_of(tmp_path, content).texts_of("h2") == ["Samples"]


def test_pictures_beyond_what_a_page_may_weigh_are_left_out(tmp_path: Path):
    large = PIXEL[:-1].ljust(PICTURE_BYTES // 2 - 1, "A")
    examples = [{"key": str(number), "caption": "a", "image": large} for number in range(4)]
    page = page_of(tmp_path, report(examples={"kept": examples}))
    assert (page.count("article"), page.count("img")) == (4, 2)


def test_what_is_no_report_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"is no report of a step; give its report\.json"):
        written(tmp_path, [1])
    with pytest.raises(RunError, match="cannot be read"):
        write_step_page(tmp_path / "none.json", tmp_path / "a.html")


@NEEDS_BROWSER
def test_a_browser_shows_it_without_complaint(tmp_path: Path):
    page = written(tmp_path, report())
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.complaints == []
        assert [one for one in browser.requests if not one.startswith(("file:", "data:"))] == []
