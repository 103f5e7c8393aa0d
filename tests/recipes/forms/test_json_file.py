import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import DataError
from contrastive.recipes.forms.json_file import JsonFile
from tests.recipes.forms.trees import write, write_json

DOCUMENT: dict[str, Any] = {
    "info": {"a": [1, {"b": []}], "c": 'a "quoted" ] text'},
    "images": [{"id": 1, "name": "ä, ]"}, [2, 3], "text", None, -1.5e3],
    "none": [],
    "last": None,
}


@pytest.mark.parametrize("indent", [None, 2])
def test_items_are_those_that_the_json_module_reads(tmp_path: Path, indent: int | None) -> None:
    document = JsonFile(str(write(tmp_path / "a.json", json.dumps(DOCUMENT, indent=indent))))
    assert list(document.members) == list(DOCUMENT)
    assert [value for _, value in document.items("images")] == DOCUMENT["images"]
    assert list(document.items("none")) == []
    assert [document.at(place) for place, _ in document.items("images")] == DOCUMENT["images"]


def test_a_document_may_be_a_list_with_a_bom_or_packed(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + json.dumps([1, [2]]).encode()
    plain, packed = write(tmp_path / "a.json", text), write(tmp_path / "a.json.gz", gzip.compress(text))
    assert [[value for _, value in JsonFile(str(path)).items()] for path in (plain, packed)] == [[1, [2]]] * 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"images": [1, 2,\n]}', 1),
        ('{"images": [1\n 2]}', 2),
        ('{"images": [1, 2]\n', 2),
        ('{"images":\n [{"a": 1, }]}', 2),
        ('{"images": []} x', 1),
        ('{"images" []}', 1),
        ("", 1),
        ("[1, 2", 1),
    ],
)
def test_what_is_no_json_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=rf"a\.json: line {line}: .*write or copy it again") as caught:
        list(JsonFile(str(path)).items(None if text.startswith("[") else "images"))
    assert "\n" not in str(caught.value)


def test_a_missing_list_and_a_missing_file_are_told(tmp_path: Path) -> None:
    document = JsonFile(str(write_json(tmp_path / "a.json", {"a": 1})))
    with pytest.raises(DataError, match=r"a\.json: has no 'images'; it has a"):
        list(document.items("images"))
    with pytest.raises(DataError, match="a is no list"):
        list(document.items("a"))
    with pytest.raises(DataError, match=r"there is no .*b\.json"):
        JsonFile(str(tmp_path / "b.json"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        JsonFile(str(write(tmp_path / "c.json", b'["\xff"]')))
