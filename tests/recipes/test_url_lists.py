import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes import url_lists
from contrastive.recipes.records import Rejected
from contrastive.recipes.url_lists import Condition, known_list, listed_columns, write_list


def batch(numbers: range, **columns: list) -> pa.RecordBatch:
    rows = {"url": [f"https://here/{n}" for n in numbers], "caption": [f"c{n}" for n in numbers], "id": list(numbers)}
    return pa.RecordBatch.from_pydict({**rows, **columns})


def ids(folder: Path) -> list[list[int]]:
    paths = sorted(folder.glob("*.parquet"))
    return [parquet.read_table(path).column("id").to_pylist() for path in paths]


def test_files_are_filled_one_after_the_other_whatever_the_batches(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(url_lists, "ROWS_PER_FILE", 4)
    listed = write_list(tmp_path / "a", [batch(range(3)), batch(range(3, 10))], {})
    assert ids(tmp_path / "a") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    write_list(tmp_path / "b", [batch(range(n, n + 1)) for n in range(10)], {})
    assert ids(tmp_path / "b") == ids(tmp_path / "a")
    assert listed.rows == 10
    assert listed_columns(tmp_path / "a") == ["url", "caption", "id"]


def test_rows_without_address_or_caption_are_written_down_and_blanks_are_cut(tmp_path: Path) -> None:
    urls = [" https://x/a ", "ftp://x/b", None, "HTTP://x/d", "https://"]
    captions = [" one\n", "two", "three", "\u2003 ", "five"]
    rows = batch(range(5), url=urls, caption=captions)
    listed = write_list(tmp_path / "list", [rows, Rejected("line 9", "9", "broken row", "torn")], {"source": "x"})
    assert parquet.read_table(tmp_path / "list" / "00000.parquet").to_pylist() == [
        {"url": "https://x/a", "caption": "one", "id": 0}
    ]
    written = [json.loads(line) for line in (tmp_path / "list" / "rejected.jsonl").read_text().splitlines()]
    assert [(row["key"], row["reason"]) for row in written] == [
        ("1", "url: none"), ("2", "url: none"), ("3", "caption: empty"), ("4", "url: none"), ("9", "broken row")
    ]  # fmt: skip
    assert str(listed) == "1 rows listed, 3 rejected (url: none), 1 rejected (caption: empty), 1 rejected (broken row)"
    assert str(known_list(tmp_path / "list")) == str(listed)


def test_a_limit_takes_the_first_usable_rows_and_reads_no_further(tmp_path: Path) -> None:
    def batches():
        yield batch(range(3), url=["https://x", None, "https://y"])
        yield batch(range(3, 6))
        raise AssertionError

    write_list(tmp_path / "list", batches(), {}, limit=4)
    assert ids(tmp_path / "list") == [[0, 2, 3, 4]]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("score>=0.5", [1, 2]), ("score < 0.5", [0]), ("word==b", [1]), ("word!=b", [0, 2]), ("score>0.5", [2])],
)
def test_a_condition_keeps_the_rows_that_a_loop_would(text: str, kept: list[int], tmp_path: Path) -> None:
    rows = batch(range(4), score=[0.1, 0.5, 0.9, None], word=["a", "b", "c", None])
    listed = write_list(tmp_path / "list", [rows], {}, where=[Condition.parse(text)])
    assert ids(tmp_path / "list") == [kept]
    assert listed.unwanted == 4 - len(kept)


def test_what_is_no_condition_or_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--where 'score=3': is no COLUMN>=VALUE"):
        Condition.parse("score=3")
    with pytest.raises(ConfigError, match=r"--where scor: no such column; did you mean score\?"):
        write_list(tmp_path / "list", [batch(range(1), score=[1.0])], {}, where=[Condition.parse("scor>1")])
    with pytest.raises(
        ConfigError, match=r"--where caption: the column holds string, which cannot be compared with 1\.0"
    ):
        write_list(tmp_path / "list", [batch(range(1))], {}, where=[Condition.parse("caption>1")])


def test_a_list_of_the_same_source_is_kept_and_one_of_another_is_made_anew(tmp_path: Path) -> None:
    write_list(tmp_path / "list", [batch(range(3))], {"source": 1})
    assert write_list(tmp_path / "list", [batch(range(9))], {"source": 1}).rows == 3
    assert write_list(tmp_path / "list", [batch(range(9))], {"source": 2}).rows == 9
    assert ids(tmp_path / "list") == [list(range(9))]


def test_a_source_without_a_usable_row_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no row can be used \(0 rows listed, 1 rejected \(caption: empty\)\); row 0: its"
    ):
        write_list(tmp_path / "list", [batch(range(1), caption=[""])], {"source": "x"})
    assert not (tmp_path / "list").exists()
    with pytest.raises(DataError, match=r"holds no list; run --step list first"):
        known_list(tmp_path / "list")
