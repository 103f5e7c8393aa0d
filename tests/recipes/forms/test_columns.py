import pytest

from contrastive.errors import ConfigError
from contrastive.recipes.forms.cells import Images
from contrastive.recipes.forms.columns import Columns, Row
from contrastive.recipes.records import File, Record, Rejected

PRESENT = ["path", "title", "alt", "uid", "tags"]


def columns(**options: str | None) -> Columns:
    named: dict[str, str | None] = {"image": "path", "caption": "title", "id": None, "split": None, "fields": "*"}
    return Columns.named(PRESENT, "a.csv", **{**named, **options})  # type: ignore[arg-type]


def test_only_what_is_asked_for_is_read() -> None:
    assert columns().wanted(PRESENT, ["path", "title", "alt", "uid"]) == ["path", "title", "alt", "uid"]
    assert columns(fields="tags").wanted(PRESENT, ["path", "alt"]) == ["path", "title", "tags"]
    assert columns(fields="", id="uid").wanted(PRESENT, ["alt"]) == ["path", "title", "uid"]


def test_a_row_becomes_a_record() -> None:
    row = Row("a.csv: line 2", {"path": "x/y.jpg", "title": "a cat", "alt": "", "uid": "u", "tags": ["b"]})
    wanted = Record("pets/x/y", File("/pictures/x/y.jpg"), ("a cat",), "a.csv: line 2", {"uid": "u"}, split="val")
    assert columns().record(row, Images("/pictures"), "pets/", "val") == wanted


def test_a_rejected_row_has_the_key_that_is_known() -> None:
    row = Row("a.csv: line 2", {"path": "x/y.jpg", "title": " "})
    found = columns().record(row, Images("/pictures"))
    assert found == Rejected("a.csv: line 2", "x/y", "caption: empty", "a.csv: line 2: its caption is empty")


def test_a_column_that_nothing_resembles_is_refused_with_all_that_are_there() -> None:
    said = "id: a.csv has no column 'zzz'; it has path, title, alt, uid, tags; set id to one of them"
    with pytest.raises(ConfigError) as caught:
        columns(id="zzz")
    assert str(caught.value) == said
    with pytest.raises(ConfigError, match="caption: names no column"):
        columns(caption=" , ")
