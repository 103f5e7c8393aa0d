import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.recipes.forms.columns import Row
from contrastive.recipes.forms.rows import is_table, opened, rows_of
from tests.recipes.forms.trees import write


def test_tables_are_told_by_their_names() -> None:
    assert all(map(is_table, ("a.csv", "A.TSV", "a.jsonl.gz", "a.ndjson", "a.parquet", "a.json")))
    assert not any(map(is_table, ("a.txt", "csv", "a.csv.zip", "a.parquet.gz")))


def test_rows_hold_the_columns_that_are_wanted(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x,y,z\n1,2,3\n4,5,6\n")
    parquet.write_table(pa.table({"x": ["1", "4"], "y": ["2", "5"], "z": ["3", "6"]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        table = rows_of(str(tmp_path / name))
        assert table.columns == table.plain == ("x", "y", "z")
        rows = [row.values for row in table.rows(["x", "z"]) if isinstance(row, Row)]
        assert rows == [{"x": "1", "z": "3"}, {"x": "4", "z": "6"}]


def test_binary_and_nested_columns_are_not_plain(tmp_path: Path) -> None:
    columns = {"a": [b"x"], "b": [{"c": 1}], "d": [[1]], "e": ["x"], "f": [1.5]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert rows_of(str(tmp_path / "a.parquet")).plain == ("e", "f")


def test_the_columns_of_json_lines_are_those_of_its_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 'no json\n{"a": 1}\n{"b": 2, "a": 3}\n')
    assert rows_of(str(path)).columns == ("a", "b")


def test_rows_are_named_by_lines_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\n\nx,y\n\n1,"2\n3"\n4,5\n')
    found = [row.where.rpartition(" ")[2] for row in rows_of(str(path)).rows(["x"])]
    assert found == ["5", "7"]


def test_packed_text_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", "plain")
    with pytest.raises(DataError, match=r"a\.csv\.gz: cannot be read \(Not a gzipped file"):
        rows_of(str(path))
    write(path, gzip.compress(b"x,y\n"))
    with opened(str(path)) as lines:
        assert list(lines) == ["x,y\n"]
