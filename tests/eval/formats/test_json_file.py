import re
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.eval.formats.json_file import field, read_json, read_json_lines, text_field


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_no_part_of_the_content(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
    assert list(read_json_lines(written(tmp_path, b'\xef\xbb\xbf{"a": 1}'))) == [(1, {"a": 1})]


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    content = '{"a": "x\u2028y"}\n\n{"a": 2}\r\n'.encode()
    assert list(read_json_lines(written(tmp_path, content))) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a":\n 1,}', "a.json: line 2: is no JSON"), (b"\xff", "a.json is not UTF-8"), (b"", "is no JSON")],
)
def test_a_file_that_is_no_json_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_json(written(tmp_path, content))


@pytest.mark.parametrize(("content", "message"), [(b"{}\n{", "line 2: is no JSON"), (b"[1]", "line 1: '[1]' is no")])
def test_a_line_that_is_no_object_is_refused_by_number(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        list(read_json_lines(written(tmp_path, content)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*none\.json"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"b": 1, "c": 2}, "x: has no 'a'; it has b, c"),
        ({"a": 1}, "x: a: '1' must be a text"),
        ([1], "x: '[1]' is no object with 'a'"),
        ({"a": " "}, "x: a is empty"),
    ],
)
def test_a_field_that_is_missing_or_of_another_type_is_named(record: object, message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        text_field(record, "a", "x")


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(DataError, match="must be a whole number"):
        field({"a": True}, "a", int, "x")


def test_a_text_is_returned_as_it_stands() -> None:
    assert text_field({"a": " a cat. "}, "a", "x") == " a cat. "
