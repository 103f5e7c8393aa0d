"""What stands in a tar for a sample, and what is refused with which words."""

import errno
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.data.storage import ReadError, Storage, StorageOptions
from contrastive.data.stream import BadSampleError
from contrastive.errors import DataError
from contrastive.recipes.packing.encoding import Encoding
from contrastive.recipes.packing.listing import Row, write_listing
from contrastive.recipes.packing.making import Contents, Source, make, read
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.records import File, Record, Span
from tests import toys
from tests.recipes.packing.sources import jpeg


def row(captions: list[str] | None = None, **more: Any) -> Row:
    found = Row("k", "/x/k.jpg", ["a cat"] if captions is None else captions, "row 1", {}, {}, 1, None)
    return found._replace(**more)


def made(image: bytes, rows: list[Row] | None = None, members: dict | None = None, **how: Any):
    source = Source(rows or [row()], image, members or {})
    return dict(make(source, Packing(**how)).members)


def test_a_sample_is_image_caption_and_fields():
    found = made(jpeg(1), [row(fields={"n": 1, "a": "ü"})])
    assert found == {
        "k.jpg": jpeg(1),
        "k.txt": b"a cat",
        "k.json": '{"a": "ü", "captions": ["a cat"], "height": 24, "n": 1, "width": 30}'.encode(),
    }


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_ending_is_that_of_the_bytes_whatever_the_file_is_called(kind: str):
    endings = {"JPEG": "jpg", "TIFF": "tif"}
    content = toys.encode(toys.image(1), kind)
    assert made(content)[f"k.{endings.get(kind, kind.lower())}"] == content


@pytest.mark.parametrize(
    ("image", "how", "reason", "said"),
    [
        (b"", {}, "image: empty", "its image has no bytes"),
        (b"<html>", {}, "image: not an image", "its image is not an image: it begins with b'<html>'"),
        (jpeg(1)[:-40], {}, "image: truncated", "its image cannot be decoded: "),
        (jpeg(1)[:300] + bytes(50) + jpeg(1)[-20:], {"check": "decode"}, "image: ", "its image "),
    ],
)
def test_an_image_that_cannot_be_used_is_named(image: bytes, how: dict, reason: str, said: str):
    with pytest.raises(BadSampleError, match=r".") as caught:
        made(image, **how)
    assert caught.value.reason.startswith(reason)
    assert caught.value.message.startswith(said)


def test_a_huge_image_is_refused_by_its_header():
    bomb = bytearray(toys.encode(toys.image(1)))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    with pytest.raises(BadSampleError, match="has 30000 x 30000 pixels, more than 64,000,000"):
        made(bytes(bomb))


def test_an_image_with_something_behind_its_end_is_kept():
    content = jpeg(1) + bytes(5000)
    assert made(content)["k.jpg"] == content


def test_unchecked_bytes_are_taken_as_they_are():
    assert made(b"anything", check="none") == {
        "k.jpg": b"anything",
        "k.txt": b"a cat",
        "k.json": b'{"captions": ["a cat"]}',
    }


def test_captions_of_all_rows_are_one_list_and_the_first_is_the_text():
    rows = [row(["one", " two "]), row(["two", "three", " "])]
    found = made(jpeg(1), rows)
    assert found["k.txt"] == b"one"
    assert json.loads(found["k.json"])["captions"] == ["one", "two", "three"]


def test_one_caption_is_a_list_too():
    assert json.loads(made(jpeg(1))["k.json"])["captions"] == ["a cat"]


@pytest.mark.parametrize("captions", [[], [""], [" \n\t"]])
def test_a_sample_without_a_caption_is_refused(captions: list[str]):
    with pytest.raises(BadSampleError, match="its caption is empty") as caught:
        made(jpeg(1), [row(captions)])
    assert caught.value.reason == "caption: empty"


def test_html_is_text_unless_it_is_to_be_cleaned():
    text = "<p>A <b>cat</b>&nbsp;&amp; a dog<br/>3 &lt; 4</p>"
    assert made(jpeg(1), [row([text])])["k.txt"] == text.encode()
    assert made(jpeg(1), [row([text])], clean_html=True)["k.txt"] == b"A cat & a dog 3 < 4"
    with pytest.raises(BadSampleError, match="its caption is empty"):
        made(jpeg(1), [row(["<p></p>"])], clean_html=True)


def test_half_a_character_does_not_end_the_work():
    assert made(jpeg(1), [row(["half \ud83d"])])["k.txt"] == b"half ?"


def test_what_is_no_json_becomes_null():
    found = made(jpeg(1), [row(fields={"a": math.nan, "b": [1.5, math.inf]})])
    assert json.loads(found["k.json"]) == {
        "captions": ["a cat"],
        "a": None,
        "b": [1.5, None],
        "width": 30,
        "height": 24,
    }


def test_fields_of_the_source_that_ours_would_hide_go_on_under_another_name():
    found = made(jpeg(1), [row(fields={"width": 640, "height": 24}, source_key="the.key")])
    content = json.loads(found["k.json"])
    assert content.pop("captions") == ["a cat"]
    assert content == {"width": 30, "height": 24, "source_width": 640, "key": "the.key"}


def test_members_that_a_sample_brings_stay_byte_for_byte():
    given = {"txt": b"caf\xe9 ", "json": b'{ "width":1}', "seg.png": b"mask"}
    found = made(jpeg(1), [row([], members={"txt": 0})], given)
    assert found == {"k.jpg": jpeg(1), **{f"k.{name}": content for name, content in given.items()}}


def test_two_images_of_one_kind_cannot_stand_in_one_sample():
    with pytest.raises(BadSampleError, match="two images of one kind, jpg"):
        made(jpeg(1), [row(members={"jpg": 0})], {"jpg": jpeg(2)})


def test_an_image_that_is_encoded_anew_says_what_it_was():
    content = toys.encode(np.zeros((40, 80, 3), np.uint8), "PNG")
    found = made(content, encoding=Encoding(size=20, format="jpg"))
    with Image.open(io.BytesIO(found["k.jpg"])) as image:
        assert image.size == (40, 20)
    content = json.loads(found["k.json"])
    assert content.pop("captions") == ["a cat"]
    assert content == {"width": 40, "height": 20, "original_width": 80, "original_height": 40}


def test_contents_are_read_wherever_they_lie(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"file")
    (tmp_path / "a.tar").write_bytes(b"--span--")
    rows = [Record("a", File(str(tmp_path / "a.jpg")), ("x",), "a", members={"txt": b"bytes"})]
    rows.append(Record("b", Span(str(tmp_path / "a.tar"), 2, 4, 8), ("x",), "b"))
    contents = Contents(write_listing(rows, tmp_path / "listing", Packing()), Storage())
    first = read(contents, [contents.listing.row(0)])
    assert (first.image, first.members) == (b"file", {"txt": b"bytes"})
    assert read(contents, [contents.listing.row(1)]).image == b"span"
    contents.close()


@pytest.mark.parametrize(
    ("place", "reason", "said"),
    [
        ("/nowhere/a.jpg", "image: missing", "/nowhere/a.jpg cannot be opened: No such file or directory"),
        ("/etc/hostname/a.jpg", "image: missing", "cannot be opened: Not a directory"),
        ("/tmp", "image: unreadable", "/tmp cannot be read: Is a directory"),
        ("/a\0b", "image: unreadable", "embedded null byte"),
        (["/nowhere/a.tar", 0, 4, -1], "shard: missing", "/nowhere/a.tar"),
        (["/nowhere/a.tar", 0, 1 << 40, -1], "image: too large", "more than 1,073,741,824 bytes"),
    ],
)
def test_bytes_that_cannot_be_had_are_named(place: Any, reason: str, said: str, tmp_path: Path):
    listing = write_listing([Record("a", b"", ("x",), "a")], tmp_path / "listing", Packing())
    contents = Contents(listing, Storage(StorageOptions(retries=0)))
    for _ in range(2):
        with pytest.raises(BadSampleError, match=r".") as caught:
            read(contents, [row(image=place)])
    assert caught.value.reason == reason
    assert said in caught.value.message


class Away(Storage):
    """A storage whose network is down."""

    def read(self, *place: Any, **_: Any) -> bytes:
        raise ReadError("stalled", f"{place[0]}: nothing came for 60 s")


def test_a_network_that_is_down_ends_the_work_and_spoils_no_row(tmp_path: Path):
    listing = write_listing([Record("a", b"", ("x",), "a")], tmp_path / "listing", Packing())
    with pytest.raises(DataError, match=r"nothing came for 60 s; run the command again when it is back") as caught:
        read(Contents(listing, Away()), [row(image=["s3://x/0.tar", 0, 4, -1])])
    assert not isinstance(caught.value, BadSampleError)


def test_a_disk_that_is_away_ends_the_work_and_spoils_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stale(*_: Any) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    listing = write_listing([Record("a", b"", ("x",), "a")], tmp_path / "listing", Packing())
    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(
        DataError, match=r"/x/k.jpg cannot be opened: Stale file handle; run the command again"
    ) as caught:
        read(Contents(listing, Storage()), [row()])
    monkeypatch.undo()
    assert not isinstance(caught.value, BadSampleError)
