import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.image_folder import ImageFolder
from tests.recipes.forms.trees import content, lines, png, read, reasons, refused, said, write, write_images, write_json


def test_names_are_captions(tmp_path: Path) -> None:
    write_images(tmp_path, "a_black-cat.PNG", "deep/er/a__dog.jpeg", "deep/a bird.webp")
    records, rejected = read(ImageFolder(str(tmp_path), caption="name"))
    assert said(records) == {
        "a_black-cat": ("a black cat",),
        "deep/a bird": ("a bird",),
        "deep/er/a__dog": ("a dog",),
    }
    assert not rejected
    assert [content(record) for record in records] == [png(0), png(2), png(1)]
    records, _ = read(ImageFolder(str(tmp_path), caption="name", blanks=False, template="a photo of {}"))
    assert records[0].captions == ("a photo of a_black-cat",)


def test_folders_are_captions(tmp_path: Path) -> None:
    write_images(tmp_path, "x/guinea_pig/1.jpg", "cat/1.jpg", "cat/2.jpg")
    records, _ = read(ImageFolder(str(tmp_path), caption="folder", template="a photo of a {}."))
    assert said(records) == {
        "cat/1": ("a photo of a cat.",),
        "cat/2": ("a photo of a cat.",),
        "x/guinea_pig/1": ("a photo of a guinea pig.",),
    }


def test_text_and_json_beside_images_are_captions(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png", "d.PNG", "deep/a.png")
    write(tmp_path / "a.txt", b"\xef\xbb\xbf one \r\n\r\ntwo\r\n")
    write_json(tmp_path / "b.json", {"caption": ["one", "two"], "width": 5, "exif": {"a": 1}})
    write(tmp_path / "c.txt", "of the text\n")
    write_json(tmp_path / "c.json", {"caption": "of the json", "url": "http://x.org"})
    write(tmp_path / "d.TXT", "<p>as &amp; it is</p>")
    write(tmp_path / "deep/a.txt", "deep")
    records, rejected = read(ImageFolder(str(tmp_path)))
    assert not rejected
    assert said(records) == {
        "a": ("one", "two"),
        "b": ("one", "two"),
        "c": ("of the text",),
        "d": ("<p>as &amp; it is</p>",),
        "deep/a": ("deep",),
    }
    fields = {record.key: record.fields for record in records}
    assert fields["b"] == {"width": 5}
    assert fields["c"] == {"caption": "of the json", "url": "http://x.org"}


def test_a_field_of_the_json_may_be_chosen(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write(tmp_path / "a.txt", "text")
    write_json(tmp_path / "a.json", {"caption": "one", "recaption": "two"})
    (record,), _ = read(ImageFolder(str(tmp_path), field="recaption"))
    assert (record.captions, record.fields) == (("two",), {"caption": "one"})


def test_bad_sidecars_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png", "f.png")
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.txt", b"caf\xe9")
    write(tmp_path / "c.txt", " \n")
    write(tmp_path / "d.json", '{"caption": ')
    write_json(tmp_path / "e.json", ["caption"])
    write(tmp_path / "lonely.txt", "no image")
    records, rejected = read(ImageFolder(str(tmp_path)))
    assert said(records) == {"a": ("fine",)}
    assert {one.key: one.reason for one in rejected} == {
        "b": "caption: not UTF-8",
        "c": "caption: empty",
        "d": "json: damaged",
        "e": "json: no object",
        "f": "caption: missing",
        "lonely": "image: missing",
    }
    assert f"{tmp_path}/lonely.txt: has no image beside it" in [one.message for one in rejected]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", ["", "train/"])
def test_a_metadata_table_names_images_below_its_folder(tmp_path: Path, ending: str, folder: str) -> None:
    write_images(tmp_path / folder, "a.png", "deep/b.png", "unnamed.png")
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "text": "one", "n": 1},
        {"file_name": "deep/b.png", "text": "two", "n": 2},
    ]
    path = tmp_path / folder / f"metadata.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        write(path, "\n".join(map(json.dumps, rows)))
    else:
        write(path, lines(rows[0], *(row.values() for row in rows)))
    records, rejected = read(ImageFolder(str(tmp_path)))
    assert said(records) == {f"{folder}a": ("one",), f"{folder}deep/b": ("two",)}
    assert [content(record) for record in records] == [png(0), png(1)]
    assert [str(record.fields["n"]) for record in records] == ["1", "2"]
    assert [(one.key, one.reason) for one in rejected] == [(f"{folder}unnamed", "caption: missing")]


def test_a_metadata_table_without_captions_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", "file_name,label\na.png,1\n")
    path = tmp_path / "metadata.csv"
    wanted = f"field: {path} has no column 'caption'; it has file_name, label; name one"
    assert refused(ImageFolder, tmp_path, error=ConfigError) == wanted


def test_hidden_files_and_loops_of_links_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", ".hidden.png", ".git/b.png", "deep/c.png")
    os.symlink(tmp_path, tmp_path / "deep" / "loop")
    os.symlink(tmp_path / "deep", tmp_path / "link")
    records, _ = read(ImageFolder(str(tmp_path), caption="name"))
    assert [record.key for record in records] == ["a", "deep/c", "link/c"]


def test_names_that_are_no_utf8_are_kept_as_bytes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(path, "wb") as file:
            file.write(png(0))
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    write(tmp_path / os.fsdecode(b"caf\xe9.txt"), "coffee")
    (record,), _ = read(ImageFolder(str(tmp_path)))
    assert (os.fsencode(record.key), record.captions, content(record)) == (b"caf\xe9", ("coffee",), png(0))


def test_images_of_one_name_are_both_yielded(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "a.jpg")
    write(tmp_path / "a.txt", "both")
    records, _ = read(ImageFolder(str(tmp_path)))
    assert [record.key for record in records] == ["a", "a"]


def test_a_folder_without_captions_says_what_may_be_chosen(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write(tmp_path / "README.txt", "about")
    said = refused(ImageFolder, tmp_path, error=DataError)
    assert "its images have no captions beside them (.txt, .json or metadata.csv); caption=name takes" in said


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    assert refused(ImageFolder, tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    for caption in (None, "name"):
        assert refused(ImageFolder, tmp_path, caption=caption).startswith(f"{tmp_path}: holds no image; it needs files")
    write_images(tmp_path, "a.png")
    assert "template: 'a photo' must hold {}" in refused(ImageFolder, tmp_path, caption="name", template="a photo")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "closed/b.png")
    os.chmod(tmp_path / "closed", 0)
    try:
        if os.access(tmp_path / "closed", os.R_OK):
            pytest.skip("this user may read everything")
        records, rejected = read(ImageFolder(str(tmp_path), caption="name"))
    finally:
        os.chmod(tmp_path / "closed", 0o755)
    assert ([record.key for record in records], reasons(rejected)) == (["a"], ["folder: unreadable"])
