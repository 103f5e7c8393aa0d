"""The frame of the pages: what a browser is told, and what happens to a file that cannot be written."""

from pathlib import Path

import pytest

from contrastive.errors import RunError
from contrastive.report.frame import POLICY, disclosed, page, write_page
from contrastive.report.markup import tag
from tests.report.toys import ATTACK, Page


def test_a_page_has_its_title_its_policy_and_its_sections() -> None:
    made = Page(page(ATTACK, tag("p", "one"), None, tag("p", "two")))
    assert made.texts_of("title") == [ATTACK]
    assert made.texts_of("p") == ["one", "two"]
    assert [meta["content"] for meta in made.all("meta") if "http-equiv" in meta] == [POLICY]


def test_the_policy_runs_no_script_and_loads_nothing() -> None:
    assert POLICY.startswith("default-src 'none'")
    assert "script" not in POLICY
    assert "http" not in POLICY


@pytest.mark.parametrize("content", [None, "", {}])
def test_nothing_is_not_disclosed(content: object) -> None:
    assert disclosed("Title", content) is None


def test_values_are_disclosed_as_json_and_text_as_it_is() -> None:
    assert Page(disclosed("T", {"a": ["é"]}) or "").texts_of("pre") == ['{\n  "a": [\n    "é"\n  ]\n}']
    assert Page(disclosed("T", f" {ATTACK}\n") or "").texts_of("pre") == [f" {ATTACK}\n"]


def test_half_a_surrogate_pair_does_not_stop_a_page(tmp_path: Path) -> None:
    assert write_page(tmp_path / "a.html", "a\ud800b").read_text() == "a?b"


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.html' cannot be written"):
        write_page(tmp_path / "missing" / "a.html", "new")
