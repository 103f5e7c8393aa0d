"""Lists of samples, as other steps and other tools write them."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.recipes.curation import lists
from contrastive.recipes.curation.lists import IdList, read_list
from contrastive.recipes.curation.names import name_of
from contrastive.recipes.verdicts import Verdict, writing_verdicts
from contrastive.settings import DataConfig
from tests import toys

KEYS = ["s00003", "s00001", "bücher/s00007"]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return open_pool(DataConfig(train=str(toys.write_shards(tmp_path / "shards", 10, 2))), Storage())


def named(found: IdList) -> list[bytes]:
    return [name.ljust(16, b"\0") for name in found.names.tolist()]


def test_keys_stand_one_a_line(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\ufeff" + "\r\n".join([*KEYS, "", "  "]))
    found = read_list(tmp_path / "a.txt", "")
    assert (found.by, found.judges, found.keeps.tolist()) == ("key", False, [True] * 3)
    assert named(found) == [name_of(key) for key in KEYS]


def test_a_table_in_any_form_says_the_same(tmp_path: Path):
    rows = [
        {"key": key, "kept": number != 1, "reason": "" if number != 1 else "blurred"} for number, key in enumerate(KEYS)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for ending in ("jsonl", "csv", "parquet"):
        found = read_list(tmp_path / f"a.{ending}", "")
        assert (found.by, found.judges, found.keeps.tolist()) == ("key", True, [True, False, True])
        assert named(found) == [name_of(key) for key in KEYS]
        assert [found.reasons[code] for code in found.codes] == ["", "blurred", ""]


def test_keys_are_texts_even_where_they_look_like_numbers(tmp_path: Path):
    (tmp_path / "a.csv").write_text("key\n000123\n")
    assert named(read_list(tmp_path / "a.csv", "")) == [name_of("000123")]


def test_a_quarantine_file_is_a_list_of_places(tmp_path: Path):
    (tmp_path / "q.jsonl").write_text(
        '{"location": "/there/00001.tar", "key": "a", "row": 3, "reason": "image: empty"}\n'
    )
    found = read_list(tmp_path / "q.jsonl", "")
    assert (found.by, found.judges) == ("place", False)
    assert named(found) == [name_of("00001.tar", 3, "a")]


def test_verdicts_on_these_samples_are_taken_in_their_order(tmp_path: Path, pool: Pool, monkeypatch):
    monkeypatch.setattr(lists, "BATCH", 4)
    with writing_verdicts(tmp_path / "verdicts.parquet", pool, {"step": "test"}) as verdicts:
        for number in range(len(pool)):
            verdicts.add(Verdict(number, "odd" if number % 2 else ""))
    found = read_list(tmp_path / "verdicts.parquet", pool.fingerprint)
    assert (found.by, len(found.names)) == ("order", 0)
    assert found.keeps.tolist() == [number % 2 == 0 for number in range(10)]
    assert found.label == f"{tmp_path.name}/verdicts.parquet"
    assert found.provenance()["says"]["step"] == "test"
    elsewhere = read_list(tmp_path / "verdicts.parquet", "of other samples")
    assert elsewhere.by == "place"
    assert named(elsewhere)[6] == name_of("00001.tar", 1, "s00006")


def test_uids_are_told_by_their_column_or_by_what_is_asked(tmp_path: Path):
    uid = "139e4a9b22a614771f06c700a8ebe150"
    parquet.write_table(pa.table({"uid": [uid], "url": ["x"]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"uid": [uid], "key": ["k"]}), tmp_path / "b.parquet")
    for found in (read_list(tmp_path / "a.parquet", ""), read_list(tmp_path / "b.parquet", "", "uid")):
        assert found.by == "uid"
        assert named(found) == [bytes.fromhex(uid)]
    assert read_list(tmp_path / "b.parquet", "").by == "key"


def test_a_reason_for_every_row_is_not_counted_by(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lists, "MOST_REASONS", 3)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"key": str(n), "kept": False, "reason": f"r{n}"}) + "\n" for n in range(5))
    )
    found = read_list(tmp_path / "a.jsonl", "")
    assert found.reasons == ("", "r0", "r1")
    assert found.codes.tolist() == [1, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "none.txt: no such file; name a list"),
        ("a.txt", b"\n \n", "a.txt: lists no sample"),
        ("a.txt", b"k\n\xff\n", "a.txt: line 2 is no UTF-8 text"),
        ("a.jsonl", b'{"key": "a"}\n{"key": \n', "a.jsonl: line 2: .*is no JSON object.*; a list must be whole"),
        ("a.jsonl", b'{"key": "a", "kept": "maybe"}\n', "kept is 'maybe' in a row; it must be true or false"),
        ("a.jsonl", b'{"id": "a"}\n', "a.jsonl: has no column key; a list has"),
        ("a.csv", b"key,kept\na,true\nb\n", "a.csv: line 3: has 1 cells instead of 2; .*; a list must be whole"),
        ("a.parquet", b"PAR1", "a.parquet: "),
        ("a.csv", b"uid\n12\n", "'12' is no uid, which has 32 hexadecimal digits"),
    ],
)
def test_half_a_list_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_list(tmp_path / name, "")
    assert "\n" not in str(error.value)


def test_uids_are_asked_of_a_list_that_has_none(tmp_path: Path):
    (tmp_path / "a.csv").write_text("key\na\n")
    with pytest.raises(DataError, match=r"a.csv: has no column uid; it has key"):
        read_list(tmp_path / "a.csv", "", "uid")


def test_the_provenance_of_a_list_is_its_hash_and_what_it_keeps(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros(2, "u8,u8"))
    said = read_list(tmp_path / "a.npy", "").provenance()
    assert {name: said[name] for name in ("file", "by", "rows", "kept")} == {
        "file": "a.npy",
        "by": "uid",
        "rows": 2,
        "kept": 2,
    }
    assert len(said["sha256"]) == 64
