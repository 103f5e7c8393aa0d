"""Columns of tables for the samples of a pool."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.recipes.curation.filter_columns import values_of
from tests.recipes.curation.pools import Made, opened, write


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return opened(write(tmp_path / "s", [Made(f"{at:05d}") for at in range(4)], 2)).pool


def test_a_csv_and_a_parquet_give_the_same_numbers(tmp_path: Path, pool: Pool):
    keys, values = ["00003", "00000", "00001"], [3.5, 0.5, 1.5]
    (tmp_path / "a.csv").write_text("v,key\n" + "".join(f"{v},{k}\n" for k, v in zip(keys, values, strict=True)))
    parquet.write_table(pa.table({"key": keys, "v": values}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        np.testing.assert_array_equal(values_of(tmp_path / name, "v", pool), [0.5, 1.5, np.nan, 3.5])


def test_empty_cells_are_no_values(tmp_path: Path, pool: Pool):
    (tmp_path / "a.csv").write_text("key,v\n00000,\n00001,2\n")
    np.testing.assert_array_equal(values_of(tmp_path / "a.csv", "v", pool), [np.nan, 2, np.nan, np.nan])
    parquet.write_table(pa.table({"key": ["00000", "00001"], "v": [None, True]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(values_of(tmp_path / "a.parquet", "v", pool), [np.nan, 1, np.nan, np.nan])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,v\n1,2\n", "a.csv: has no column 'key'; it has id, v"),
        ("key,w\n1,2\n", "a.csv: has no column 'v'; it has key, w"),
        ("key,v\nx,2\n", "a.csv: speaks of none of the 4 samples"),
        ("key,v\n00000,1\n00000,2\n", "a.csv: 1 rows repeat another's key"),
        ("key,v\n00000,much\n", "a.csv: its column 'v' holds object values, no numbers; set equals"),
        ("key,v\n00000,1,3\n", "a.csv: cannot be read as CSV"),
        ("", "a.csv: cannot be read as CSV"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(tmp_path: Path, pool: Pool, content: str, said: str):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        values_of(path, "v", pool)
    assert str(caught.value).startswith(str(path))


def test_an_absent_file_is_named(tmp_path: Path, pool: Pool):
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            values_of(tmp_path / name, "v", pool)
