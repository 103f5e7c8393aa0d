"""Lines of quarantine files, and the rows that they leave out."""

import json
import logging
from pathlib import Path

import pytest

from contrastive.data import index
from contrastive.data.quarantine import json_line
from contrastive.data.rows import Replaced
from contrastive.data.skips import read_quarantine, rows_of
from contrastive.data.tar import Member
from contrastive.errors import DataError

TABLE = index.build([Member(f"{key}.jpg", place * 10, 5) for place, key in enumerate("abcd")])[0]


def write(folder: Path, *lines: tuple[str, str, int, str]) -> Path:
    path = folder / "q.jsonl"
    content = [Replaced(location, key, row, 0, reason, "why", 1) for location, key, row, reason in lines]
    path.write_text("".join(map(json_line, content)))
    return path


def test_a_shard_is_found_by_its_place_and_after_a_move_by_its_name(tmp_path: Path):
    lines = [("/x/a.tar", "b", 1, "image: truncated"), ("/old/c.tar", "d", 3, "caption: empty")]
    file = write(tmp_path, *lines, ("/x/else.tar", "q", 9, "image: truncated"))
    found = read_quarantine([file], ["/x/a.tar", "/new/c.tar"])
    assert set(found) == {"/x/a.tar", "/new/c.tar"}
    assert rows_of(found["/x/a.tar"], TABLE, "/x/a.tar") == {1}
    assert rows_of(found["/new/c.tar"], TABLE, "/new/c.tar") == {3}


def test_a_name_that_two_shards_have_is_no_sign(tmp_path: Path):
    file = write(tmp_path, ("/old/a.tar", "b", 1, "image: truncated"))
    assert read_quarantine([file], ["/x/a.tar", "/y/a.tar"]) == {}


def test_lines_about_bytes_that_could_not_be_had_are_passed_over(tmp_path: Path):
    file = write(tmp_path, ("/x/a.tar", "b", 1, "shard: missing"))
    assert read_quarantine([file], ["/x/a.tar"]) == {}


def test_lines_of_another_version_of_the_shard_are_refused(tmp_path: Path):
    for key, row in (("z", 1), ("b", 2), ("b", 99)):
        file = write(tmp_path, ("/x/a.tar", key, row, "image: truncated"))
        with pytest.raises(DataError, match=f"row {row}, '{key}' of /x/a.tar, belongs to another version"):
            rows_of(read_quarantine([file], ["/x/a.tar"])["/x/a.tar"], TABLE, "/x/a.tar")


def test_strange_lines_of_a_shard_that_only_shares_the_name_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = write(tmp_path, ("/old/a.tar", "z", 1, "image: truncated"), ("/old/a.tar", "c", 2, "image: truncated"))
    with caplog.at_level(logging.WARNING, "contrastive"):
        assert rows_of(read_quarantine([file], ["/x/a.tar"])["/x/a.tar"], TABLE, "/x/a.tar") == {2}
    assert "1 lines about shards of its name elsewhere are passed over" in caplog.text


@pytest.mark.parametrize(
    "line", ["no json", "[1]", '{"key": "a", "row": 1}', '{"location": "x", "key": "a", "row": "b"}']
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path, line: str):
    (tmp_path / "q.jsonl").write_text(json.dumps({"location": "x", "key": "a", "row": 1}) + f"\n\n{line}\n")
    with pytest.raises(DataError, match="is no line of a quarantine file, which has location, key and row") as caught:
        read_quarantine([tmp_path / "q.jsonl"], ["x"])
    assert str(tmp_path / "q.jsonl") in str(caught.value)


def test_a_file_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read .*name a quarantine\.jsonl"):
        read_quarantine([tmp_path / "none.jsonl"], ["x"])
