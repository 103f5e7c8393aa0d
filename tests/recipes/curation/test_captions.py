"""New captions by key: rows of a table, and their index on disk."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation import captions
from contrastive.recipes.curation.captions import Caption, CaptionIndex, read_captions
from contrastive.recipes.records import Rejected

ROWS = [("a", "one"), ("b", 'two, "quoted"\nlines'), ("a", "drei für a"), ("000", "zero")]


def pairs(path: Path, **columns: str) -> list[tuple[str, str]]:
    found = read_captions(path, columns.get("key", "key"), columns.get("caption", "caption"))
    return [(one.key, one.text) for one in found if isinstance(one, Caption)]


def test_a_table_in_any_form_gives_the_same_captions(tmp_path: Path):
    rows = [{"key": key, "caption": text, "more": 1} for key, text in ROWS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quoted = "".join('{},"{}",1\n'.format(key, text.replace('"', '""')) for key, text in ROWS)
    (tmp_path / "a.csv").write_text("\ufeffkey,caption,more\n" + quoted)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(("key,caption,more\n" + quoted).encode()))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "b.csv.gz", "a.parquet"):
        assert pairs(tmp_path / name) == ROWS


def test_a_list_is_several_captions_and_a_number_is_a_key(tmp_path: Path):
    parquet.write_table(pa.table({"id": [7, 8], "text": [[" x ", "", "y"], ["z"]]}), tmp_path / "a.parquet")
    assert pairs(tmp_path / "a.parquet", key="id", caption="text") == [("7", "x"), ("7", "y"), ("8", "z")]


def test_rows_without_key_or_caption_are_told(tmp_path: Path):
    lines = [
        '{"key": "a", "caption": "  "}',
        '{"caption": "x"}',
        "{",
        '{"key": "b", "caption": 3}',
        '{"key": "c", "caption": "ok"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = list(read_captions(tmp_path / "a.jsonl", "key", "caption"))
    reasons = [one.reason for one in found if isinstance(one, Rejected)]
    assert reasons == ["caption: empty", "key: missing", "row: no JSON object", "caption: no text"]
    assert found[-1] == Caption(f"{tmp_path}/a.jsonl: line 5", "c", "ok")


def test_a_missing_column_is_told_with_its_option(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,captoin\n1,x\n")
    with pytest.raises(ConfigError, match=r"a.csv: has no column 'key'.*it has id, captoin; name it with --key-column"):
        list(read_captions(tmp_path / "a.csv", "key", "caption"))
    with pytest.raises(ConfigError, match=r"no column 'caption'; did you mean captoin\?.*--caption-column"):
        list(read_captions(tmp_path / "a.csv", "id", "caption"))


def test_what_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a.txt: is no table"):
        list(read_captions(tmp_path / "a.txt", "key", "caption"))


def test_the_index_finds_what_a_dictionary_would(tmp_path: Path):
    numbers = np.random.default_rng(0).integers(0, 300, 1000).tolist()
    rows = [Caption(f"row {at}", f"key-{number}", f"caption {at} ü") for at, number in enumerate(numbers)]
    expected: dict[str, list[str]] = {}
    for one in rows:
        expected.setdefault(one.key, []).append(one.text)
    index = CaptionIndex.build(tmp_path, rows)
    assert len(index) == 1000
    for number in range(320):
        assert [text for _, text in index.find(f"key-{number}")] == expected.get(f"key-{number}", [])
    places = [place for number in range(300) for place, _ in index.find(f"key-{number}")]
    assert sorted(places) == list(range(1000))
    order = index.in_file_order(np.arange(1000))
    assert [index.at(place) for place in order.tolist()] == rows


def test_keys_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captions, "_hash", lambda key: 7)
    index = CaptionIndex.build(tmp_path, [Caption("1", "a", "x"), Caption("2", "b", "y"), Caption("3", "a", "z")])
    assert [text for _, text in index.find("a")] == ["x", "z"]
    assert index.find("c") == []


def test_a_whole_index_is_taken_and_half_of_one_made_anew(tmp_path: Path):
    CaptionIndex.build(tmp_path, [Caption("1", "a", "x"), Rejected("2", "", "key: missing", "2: has no key")])
    again = CaptionIndex.build(tmp_path, iter(()))
    assert dict(again.counts) == {"captions": 1, "key: missing": 1}
    assert json.loads((tmp_path / "rejected.jsonl").read_text())["message"] == "2: has no key"
    (tmp_path / captions.DONE).unlink()
    assert len(CaptionIndex.build(tmp_path, [])) == 0


def test_half_a_character_is_replaced(tmp_path: Path):
    index = CaptionIndex.build(tmp_path, [Caption("1", "a", "x \ud800 y")])
    assert index.find("a") == [(0, "x ? y")]
