from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.eval.formats.table_file import read_rows

WANTED = ("image", "caption")


def written(tmp_path: Path, content: bytes, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, WANTED)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quotes_commas_and_line_breaks_are_part_of_a_cell(tmp_path: Path) -> None:
    content = b'image,caption\r\na.jpg,"a ""red"" cat,\r\nasleep"\r\n\r\nb.jpg,a dog\r\n'
    rows = read_rows(written(tmp_path, content), WANTED)
    assert rows.columns == {"image": ["a.jpg", "b.jpg"], "caption": ['a "red" cat,\r\nasleep', "a dog"]}
    assert list(rows.numbers) == [2, 5]
    assert rows.at(1).endswith("a.csv: line 5")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "\ufeffimage,caption\na,é\n".encode()), WANTED)
    assert rows.columns == {"image": ["a"], "caption": ["é"]}


def test_only_the_wanted_columns_are_held(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, b"image\tother\na\tb\n", "a.tsv"), WANTED)
    assert (rows.columns, rows.present) == ({"image": ["a"]}, ("image", "other"))


def test_lines_of_json_may_leave_keys_out(tmp_path: Path) -> None:
    content = b'{"image": "a", "caption": ["x", "y"]}\n\n{"image": "b", "n": 1}\n'
    rows = read_rows(written(tmp_path, content, "a.jsonl"), WANTED)
    assert rows.columns == {"image": ["a", "b"], "caption": [["x", "y"], None]}
    assert (list(rows.numbers), rows.present) == ([1, 3], ("image", "caption", "n"))


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    table = pa.table({"image": ["a", "b"], "caption": [["x"], None], "other": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet", WANTED)
    assert rows.columns == {"image": ["a", "b"], "caption": [["x"], None]}
    assert rows.at(1).endswith("a.parquet: row 2")
    assert rows.present == ("image", "caption", "other")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"image,caption\na,b,c\n", "a.csv", "line 2: has 3 cells; it must have 2 like line 1"),
        (b'image,caption\na,"b"c\n', "a.csv", "line 2: ',' expected after"),
        (b'image\tcaption\na\t"b\n', "a.tsv", "unexpected end of data"),
        (b"image,image\na,b\n", "a.csv", "line 1: column 'image' stands twice"),
        (b"image,caption\na,\xff\n", "a.csv", "is not UTF-8 text"),
        (b"image,caption\n", "a.csv", "has no row"),
        (b"", "a.csv", "has no row"),
        (b"\n", "a.jsonl", "has no row"),
        (b"PAR1", "a.parquet", "cannot be read as Parquet"),
        (b"image", "a.txt", "is no table; it must end in .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    assert message in refused(written(tmp_path, content, name))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    assert "a.csv: cannot be read" in refused(tmp_path / "a.csv")
