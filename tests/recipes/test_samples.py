import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.data.stream import BadSampleError
from contrastive.recipes.samples import Sample, thumbnail
from tests import toys
from tests.data.toys import reader, settings


def sample(folder: Path, number: int = 0, caption_key: object = "txt") -> Sample:
    return Sample(reader(settings(folder, caption_key=caption_key)), number)


def one(folder: Path, **members: bytes) -> Path:
    toys.write_tar(folder / "a.tar", [(f"s.{ending}", content) for ending, content in members.items()])
    return folder


PNG = toys.encode(toys.image(3))


def test_a_sample_is_what_stands_in_the_shard(shards: Path):
    found = sample(shards, 17)
    assert found.key == "s00017"
    assert found.size == (toys.SIZE, toys.SIZE)
    assert np.array_equal(found.pixels, toys.image(17))
    assert np.array_equal(np.asarray(found.image), toys.image(17))
    assert found.captions == (toys.caption(17),)
    assert found.encoded == found.member("png") == toys.encode(toys.image(17))
    assert found.member("cls") == b""


def test_captions_are_those_of_every_key_and_equal_ones_once(tmp_path: Path):
    fields = json.dumps({"more": ["b", "a", " "]}).encode()
    folder = one(tmp_path, png=PNG, txt=b"a", json=fields)
    assert sample(folder, caption_key={"txt": 1, "json.more": 2}).captions == ("a", "b")
    assert sample(folder, caption_key={"json.none": 1, "txt": 1}).captions == ("a",)


def test_no_caption_is_said_so(tmp_path: Path):
    with pytest.raises(BadSampleError, match=r"a\.tar:s: its caption is empty"):
        _ = sample(one(tmp_path, png=PNG, txt=b" \n")).captions


def test_fields_are_those_of_the_json_member(tmp_path: Path):
    assert sample(one(tmp_path / "a", png=PNG, txt=b"a", json=b'{"x": 1}')).fields == {"x": 1}
    assert sample(one(tmp_path / "b", png=PNG, txt=b"a")).fields == {}
    assert sample(one(tmp_path / "c", png=PNG, txt=b"a", json=b"[1]")).fields == {}
    with pytest.raises(BadSampleError, match="its json member is no JSON") as caught:
        _ = sample(one(tmp_path / "d", png=PNG, txt=b"a", json=b"{")).fields
    assert caught.value.reason == "json: damaged"


def test_a_bad_image_is_a_bad_sample(tmp_path: Path):
    with pytest.raises(BadSampleError, match=r"a\.tar:s: its image is not an image") as caught:
        _ = sample(one(tmp_path, png=b"<html>", txt=b"a")).size
    assert caught.value.reason == "image: not an image"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_thumbnail_is_a_small_jpeg_of_the_same_shape(mode: str):
    content = thumbnail(Image.new(mode, (800, 400)))
    with Image.open(io.BytesIO(content)) as found:
        assert (found.format, found.size) == ("JPEG", (160, 80))
