import base64
import csv
import gzip
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.table import Table
from contrastive.recipes.records import File, Record
from tests.recipes.forms.trees import content, lines, png, read, reasons, refused, said, write, write_images, write_json

ROWS = [
    {"image": "a.png", "caption": "a cat", "width": 4},
    {"image": "b/c.png", "caption": 'a "dog", and\nmore', "width": 5},
    {"image": "b/d.png", "caption": "<b>bold</b> &amp; é", "width": 6},
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path, *(str(row["image"]) for row in ROWS))


def written(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def require_rows(path: Path, as_text: bool = False, **options: Any) -> None:
    records, rejected = read(Table(str(path), **options))
    assert not rejected
    assert [record.key for record in records] == ["a", "b/c", "b/d"]
    assert [record.captions for record in records] == [(row["caption"],) for row in ROWS]
    assert [content(record) for record in records] == [png(number) for number in range(3)]
    widths = [row["width"] for row in ROWS]
    assert [record.fields for record in records] == [{"width": str(one) if as_text else one} for one in widths]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_is_read_whatever_parts_its_cells(images: Path, delimiter: str, ending: str, encoding: str) -> None:
    path = images / "rows.csv"
    require_rows(written(path, ROWS, delimiter=delimiter, lineterminator=ending, encoding=encoding), as_text=True)


def test_tsv_and_packed_tables_are_read(images: Path) -> None:
    require_rows(written(images / "rows.tsv", ROWS, delimiter="\t"), as_text=True)
    packed = images / "rows.csv.gz"
    packed.write_bytes(gzip.compress(written(images / "rows.csv", ROWS).read_bytes()))
    require_rows(packed, as_text=True)


def test_json_lines_and_json_are_read(images: Path) -> None:
    text = "".join(json.dumps(row) + "\r\n\n" for row in ROWS)
    require_rows(write(images / "rows.jsonl", b"\xef\xbb\xbf" + text.encode()))
    require_rows(write_json(images / "rows.json", ROWS))


def test_parquet_is_read(images: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), images / "rows.parquet", row_group_size=2)
    require_rows(images / "rows.parquet")


def test_a_folder_and_a_glob_of_tables_are_read_in_order(images: Path) -> None:
    for number, row in enumerate(ROWS):
        written(images / f"{number}.csv", [row])
    require_rows(images, as_text=True)
    require_rows(images / "[0-9].csv", as_text=True)


def test_images_lie_below_the_root(images: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "elsewhere.csv", ROWS)
    (tmp_path / "deep").mkdir()
    require_rows(path.rename(tmp_path / "deep" / "rows.csv"), as_text=True, root=str(images))


def test_absolute_paths_file_addresses_and_backslashes_are_accepted(images: Path) -> None:
    rows = [("image", "caption"), (images / "a.png", "1"), (f"file://{images}/b/c.png", "2"), ("b\\d.png", "3")]
    records, _ = read(Table(str(write(images / "rows.csv", lines(*rows)))))
    assert said(records) == {"a": ("1",), "b/c": ("2",), "b/d": ("3",)}
    assert [content(record) for record in records] == [png(number) for number in range(3)]


def test_the_key_of_an_absolute_path_outside_the_root_does_not_tell_the_path(images: Path) -> None:
    path = write(images / "deep/rows.csv", lines(("image", "caption"), (images / "b/c.png", "x")))
    (record,), _ = read(Table(str(path)))
    folder = hashlib.blake2b(str(images / "b").encode(), digest_size=4).hexdigest()
    assert (record.key, content(record)) == (f"b-{folder}/c", png(1))


def test_a_relative_path_must_not_lead_out_of_the_root(images: Path) -> None:
    path = write(images / "deep/rows.csv", lines(("image", "caption"), ("../a.png", "x"), ("../deep/e.png", "y")))
    records, rejected = read(Table(str(path)))
    assert [(record.key, record.image) for record in records] == [("e", File(str(images / "deep/e.png")))]
    assert reasons(rejected) == ["image: outside root"]
    assert f"line 2: its image '../a.png' leads out of {images / 'deep'}; set root" in rejected[0].message


def test_several_columns_and_lists_give_several_captions(images: Path) -> None:
    rows = [{"image": "a.png", "en": ["one", " two ", ""], "de": "drei"}, {"image": "b/c.png", "en": [], "de": " x "}]
    path = write(images / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    records, _ = read(Table(str(path), caption="en,de"))
    assert said(records) == {"a": ("one", "two", "drei"), "b/c": ("x",)}
    parquet.write_table(pa.Table.from_pylist(rows), images / "rows.parquet")
    records, _ = read(Table(str(images / "rows.parquet"), caption="en, de"))
    assert said(records) == {"a": ("one", "two", "drei"), "b/c": ("x",)}


def test_a_column_whose_name_holds_a_comma_is_one_column(images: Path) -> None:
    path = written(images / "rows.csv", [{"image": "a.png", "title, long": "x"}])
    assert said(read(Table(str(path), caption="title, long"))[0]) == {"a": ("x",)}


def test_ids_splits_and_fields_come_of_columns(images: Path) -> None:
    rows = [{"image": "a.png", "caption": "x", "uid": 7, "part": "val", "score": 0.5, "tags": ["a"], "none": None}]
    path = write(images / "rows.jsonl", json.dumps(rows[0]))
    (record,), _ = read(Table(str(path), id="uid", split="part"))
    assert (record.key, record.split, record.fields) == ("7", "val", {"uid": 7, "score": 0.5})
    (record,), _ = read(Table(str(path), fields="score,tags"))
    assert (record.key, record.split, record.fields) == ("a", None, {"score": 0.5, "tags": ["a"]})
    assert read(Table(str(path), fields=""))[0][0].fields == {}


def test_a_file_without_a_header_is_given_its_columns(images: Path) -> None:
    path = write(images / "rows.tsv", lines(("a cat", "a.png"), ("a dog", "b/c.png"), separator="\t"))
    records, _ = read(Table(str(path), columns="caption,image"))
    assert said(records) == {"a": ("a cat",), "b/c": ("a dog",)}


def test_images_in_parquet_are_named_by_their_bytes(tmp_path: Path) -> None:
    cells = [{"bytes": png(0), "path": "x/photo.png"}, {"bytes": png(1), "path": None}]
    parquet.write_table(pa.table({"image": cells, "caption": ["a", "b"]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"image": [png(2)], "caption": ["c"]}), tmp_path / "b.parquet")
    records, _ = read(Table(str(tmp_path)))
    digests = [hashlib.blake2b(png(number), digest_size=8).hexdigest() for number in range(3)]
    assert [record.key for record in records] == [f"photo-{digests[0]}", digests[1], digests[2]]
    assert [content(record) for record in records] == [png(number) for number in range(3)]


def test_images_in_base64_are_decoded(tmp_path: Path) -> None:
    packed = base64.b64encode(png(0)).decode()
    safe = base64.urlsafe_b64encode(png(1)).decode().rstrip("=")
    rows = [("image", "caption"), (packed, "a"), (safe, "b"), ("?" * 8, "c"), (f"data:image/png;base64,{packed}", "d")]
    path = write(tmp_path / "rows.csv", lines(*rows, separator="\t"))
    records, rejected = read(Table(str(path), base64=True))
    assert [content(record) for record in records] == [png(0), png(1), png(0)]
    assert (reasons(rejected), rejected[0].where) == (["image: no base64"], f"{path}: line 4")


def test_times_and_nan_in_parquet_do_not_break_the_json(tmp_path: Path) -> None:
    times = pa.array([datetime(2020, 1, 2, 3, 4, 5).timestamp() * 1e9 + 1], pa.float64()).cast(pa.int64())
    columns = {"image": ["a.png"], "caption": ["x"], "when": times.cast(pa.timestamp("ns")), "odd": [float("nan")]}
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    (record,), _ = read(Table(str(tmp_path / "rows.parquet")))
    assert list(record.fields) == ["when"]
    assert str(json.loads(json.dumps(record.fields))["when"]).startswith("2020-01-0")


def test_rows_of_one_id_with_other_images_are_both_yielded(images: Path) -> None:
    rows = [("image", "caption", "uid"), ("a.png", "x", "1"), ("b/c.png", "y", "1")]
    records, rejected = read(Table(str(write(images / "rows.csv", lines(*rows))), id="uid"))
    assert ([record.key for record in records], rejected) == (["1", "1"], [])


def test_bad_rows_are_told_and_the_others_are_read(images: Path) -> None:
    text = (
        b'image,caption\na.png,fine\n,no image\nb/c.png,\nb/d.png,"  "\nx.png,one,two\ny.png\nz.png,"open\n'
        b"latin.png,caf\xe9\nhttp://x.org/a.jpg,an address\nlast.png,fine too\n"
    )
    path = write(images / "rows.csv", text)
    records, rejected = read(Table(str(path)))
    assert said(records) == {"a": ("fine",), "last": ("fine too",)}
    assert [(one.where.rpartition(" ")[2], one.reason) for one in rejected] == [
        ("3", "image: missing"),
        ("4", "caption: empty"),
        ("5", "caption: empty"),
        ("6", "row: wrong number of cells"),
        ("7", "row: wrong number of cells"),
        ("8", "row: quote not closed"),
        ("9", "row: not UTF-8"),
        ("10", "image: an address"),
    ]
    assert rejected[3].message == f"{path}: line 6: has 3 cells instead of 2; quote a cell that holds the separator"


def test_bad_json_lines_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    rows = [
        b'{"image": "a.png", "caption": "x"}',
        b'{"image": "b.png", "caption": ',
        b"[1, 2]",
        b'{"image": "c.png"}',
        b'{"image": 3, "caption": "x"}',
        b'{"image": "d.png", "caption": 5}',
        b'{"image": "e.png", "caption": "\\ud83d"}',
        b'{"image": "f.png", "caption": "\xff"}',
        b'{"image": "g.png", "caption": "y", "note": "\\ud83d"}',
    ]
    records, rejected = read(Table(str(write(tmp_path / "rows.jsonl", b"\n".join(rows)))))
    assert said(records) == {"a": ("x",), "g": ("y",)}
    assert json.dumps(records[1].fields, ensure_ascii=False).encode() == b'{"note": "?"}'
    assert [(one.where.rpartition(" ")[2], one.reason) for one in rejected] == [
        ("2", "row: no JSON object"),
        ("3", "row: no JSON object"),
        ("4", "caption: missing"),
        ("5", "image: no path"),
        ("6", "caption: no text"),
        ("7", "caption: not UTF-8"),
        ("8", "row: not UTF-8"),
    ]


def test_a_damaged_table_costs_its_own_rows_alone(images: Path) -> None:
    whole = gzip.compress(lines(("image", "caption"), *((f"{n}.png", f"{n * n} cats") for n in range(5000))).encode())
    write(images / "b.csv.gz", whole[: len(whole) // 2])
    write(images / "a.csv", lines(("image", "caption"), ("a.png", "first")))
    write(images / "c.csv", lines(("image", "caption"), ("c.png", "last")))
    write(images / "d.parquet", b"PAR1 no")
    records, rejected = read(Table(str(images)))
    assert (records[0].captions, records[-1].captions) == (("first",), ("last",))
    assert [(one.where, one.reason) for one in rejected] == [
        (str(images / "b.csv.gz"), "table: damaged"),
        (str(images / "d.parquet"), "table: damaged"),
    ]
    assert len(records) > 2


@pytest.mark.parametrize("option", ["image", "caption", "id", "split", "fields"])
def test_a_missing_column_is_refused_with_those_that_are_there(images: Path, option: str) -> None:
    path = written(images / "rows.csv", ROWS)
    said = refused(Table, path, error=ConfigError, **{option: "widht"})
    rest = "has no column 'widht'; it has image, caption, width; did you mean width?"
    assert said == f"{option}: {path} {rest}"


def test_a_table_of_addresses_is_refused_with_the_way_to_download_them(tmp_path: Path) -> None:
    rows = [{"url": "http://x.org/a.jpg", "caption": "x"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "urls.parquet")
    message = refused(Table, tmp_path / "urls.parquet", error=DataError)
    assert "holds the addresses of images (column 'url'), not images; download them first: img2dataset" in message
    path = written(tmp_path / "rows.csv", rows)
    message = refused(Table, path, error=DataError, image="url")
    assert f"{path}: line 2: its image 'http://x.org/a.jpg' is an address; download them first: img2dataset" in message
    done = [{"key": "000000000", "url": "http://x.org/a.jpg", "caption": "x", "status": "success"}]
    parquet.write_table(pa.Table.from_pylist(done), tmp_path / "00000.parquet")
    message = refused(Table, tmp_path / "00000.parquet", error=DataError)
    assert message.endswith("lists what img2dataset downloaded; pack the folder of tars that it lies in")


def test_an_empty_source_holds_no_row(tmp_path: Path) -> None:
    write(tmp_path / "empty.csv", "")
    write(tmp_path / "header.csv", "image,caption\n")
    write(tmp_path / "empty.jsonl", "\n")
    parquet.write_table(pa.table({"image": pa.array([], pa.string()), "caption": []}), tmp_path / "empty.parquet")
    for name in ("empty.csv", "header.csv", "empty.jsonl", "empty.parquet"):
        assert refused(Table, tmp_path / name, error=DataError) == f"{tmp_path / name}: holds no row"


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    assert "is no table; it must end in .csv" in refused(Table, write(tmp_path / "a.txt", "x"))
    assert "holds no table; it needs files of .csv" in refused(Table, tmp_path)
    assert "cannot be read (No such file or directory)" in refused(Table, tmp_path / "b.csv")
    assert "is UTF-16 text; save it as UTF-8" in refused(Table, write(tmp_path / "c.csv", "image,x".encode("utf-16")))
    assert "cannot be read as Parquet" in refused(Table, write(tmp_path / "d.parquet", "x"))
    assert "a JSON table is a list of objects" in refused(Table, write_json(tmp_path / "e.json", {"a": 1}))


def test_records_are_those_of_the_csv_module_on_a_thousand_odd_rows(tmp_path: Path) -> None:
    signs = ["a", " ", ",", '"', "\n", "\r\n", ";", "é", "\t", "'", "|", "x"]
    rows = [
        {"image": f"{n}.png", "caption": "c" + "".join(signs[(n * (k + 3)) % len(signs)] for k in range(n % 9)) + "."}
        for n in range(1000)
    ]
    path = written(tmp_path / "rows.csv", rows)
    with path.open(newline="", encoding="utf-8") as file:
        wanted = [(row["image"], row["caption"]) for row in csv.DictReader(file)]
    found = [one for one in Table(str(path)).records() if isinstance(one, Record)]
    assert [(f"{one.key}.png", one.captions[0]) for one in found] == wanted
