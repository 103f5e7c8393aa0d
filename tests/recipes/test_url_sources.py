import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.recipes import url_sources
from contrastive.recipes.records import Rejected
from contrastive.recipes.url_sources import in_batches, only_one, read_json, read_parquets, read_tsv


def test_quotes_in_a_list_of_tabs_are_letters_and_lines_are_numbered_from_1(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'\xef\xbb\xbf"one\thttp://a\r\nb\tc\td\ntwo"\thttp://b')
    good, bad, last = read_tsv(tmp_path / "a.tsv", ("caption", "url"))
    assert good == {"id": 1, "caption": '"one', "url": "http://a"}
    assert bad == Rejected("a.tsv line 2", "2", "broken row", "has 3 cells, not 2 (caption, url)")
    assert last == {"id": 3, "caption": 'two"', "url": "http://b"}


def test_rows_come_in_batches_in_order_with_the_rejected_ones_between(monkeypatch) -> None:
    monkeypatch.setattr(url_sources, "BATCH", 2)
    rejected = Rejected("x", "x", "y", "z")
    rows = [{"id": 1}, rejected, {"id": 2}, {"id": 3, "url": "u"}]
    found = list(in_batches(rows, {"id": pa.int64(), "url": pa.string()}))
    assert found[0] == rejected
    assert [batch.to_pylist() for batch in found[1:]] == [
        [{"id": 1, "url": None}, {"id": 2, "url": None}], [{"id": 3, "url": "u"}]
    ]  # fmt: skip


def test_columns_have_one_of_several_names_and_those_of_img2dataset_are_renamed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(url_sources, "BATCH", 2)
    table = pa.table({"URL": ["a", "b", "c"], "TEXT": ["x", "y", "z"], "SHA256": ["0", "1", "2"], "more": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "p.parquet")
    columns = {"url": ("url",), "caption": ("caption", "text"), "id": ("uid",)}
    batches = list(read_parquets([tmp_path / "p.parquet"], columns, ("sha256", "absent")))
    assert [batch.num_rows for batch in batches] == [2, 1]
    assert batches[1].to_pylist() == [{"url": "c", "caption": "z", "source_sha256": "2", "id": "p:2"}]


def test_files_of_one_list_must_have_the_same_columns(tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", {"score": [1.0]})):
        parquet.write_table(pa.table({"url": ["u"], "caption": ["c"], **more}), tmp_path / f"{name}.parquet")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read as Parquet"):
        list(read_parquets(paths, {"url": ("url",), "caption": ("caption",), "id": ("id",)}, ("score",)))


def test_several_lists_where_one_is_meant_and_broken_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 2 lists \(a, b, …\); name one of them"):
        only_one([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"{"))
    with pytest.raises(DataError, match=r"a\.json\.gz: is no JSON"):
        read_json(tmp_path / "a.json.gz")
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
