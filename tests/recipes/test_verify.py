import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.recipes.verify import Limits, Verified, verify
from tests import toys
from tests.data.toys import reader, settings


def picture(width: int, height: int, **options: object) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "JPEG", **options)
    return content.getvalue()


WHOLE = picture(64, 48)
SAMPLES = {
    "good": (WHOLE, "a thing"),
    "cut": (WHOLE[: len(WHOLE) // 2], "a thing"),
    "page": (b"<!DOCTYPE html><html></html>", "a thing"),
    "blank": (WHOLE, "  \n"),
    "small": (picture(40, 7), "a thing"),
    "narrow": (picture(90, 20), "a thing"),
    "long": (WHOLE, "é" * 60),
    "last": (WHOLE, "a thing"),
}


def shards(folder: Path, **more: tuple[bytes, str]) -> Path:
    members = [
        member
        for key, (image, text) in {**SAMPLES, **more}.items()
        for member in ((f"{key}.jpg", image), (f"{key}.txt", text.encode()))
    ]
    toys.write_tar(folder / "a.tar", members)
    return folder


NONE = Limits()


def found(folder: Path, limits: Limits = NONE, **options: int) -> Verified:
    opened = reader(settings(folder, caption_key="txt", damaged_shards="substitute"))
    return verify(opened, range(len(opened.pool)), limits, **options)


@pytest.mark.parametrize("processes", [0, 2])
def test_every_sample_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path, processes: int):
    seen = found(shards(tmp_path), processes=processes)
    assert seen.checked == len(SAMPLES)
    assert [(one.key, one.reason) for one in seen.bad] == [
        ("cut", "image: truncated"),
        ("page", "image: not an image"),
        ("blank", "caption: empty"),
    ]
    for one in seen.bad:
        assert one.location == str(tmp_path / "a.tar")
        assert one.message.startswith(f"{tmp_path}/a.tar:{one.key}: ")
        content = (tmp_path / "a.tar").read_bytes()
        assert content[one.offset : one.offset + 8] == SAMPLES[one.key][0][:8]
        assert list(SAMPLES)[one.row] == one.key


def test_limits_are_kept_to_exactly(tmp_path: Path):
    def keys(**limits: float) -> set[str]:
        bad = found(shards(tmp_path), Limits(**limits)).bad  # type: ignore[arg-type]
        return {one.key for one in bad} - {"cut", "page", "blank"}

    assert keys(min_side=7) == set()
    assert keys(min_side=8) == {"small"}
    assert keys(min_side=21) == {"small", "narrow"}
    assert keys(max_aspect=40 / 7) == set()
    assert keys(max_aspect=4.5) == {"small"}
    assert keys(max_aspect=4.49) == {"small", "narrow"}
    assert keys(max_caption_bytes=120) == set()
    assert keys(max_caption_bytes=119) == {"long"}


def test_kinds_and_shards_come_by_how_often(tmp_path: Path):
    shards(tmp_path / "x", more=(b"nothing", "a thing"))
    toys.write_tar(tmp_path / "x" / "b.tar", [("k.jpg", b"nothing"), ("k.txt", b"a thing")])
    seen = found(tmp_path / "x")
    assert [(one.reason, one.samples, one.example.key) for one in seen.failures] == [
        ("image: not an image", 3, "page"),
        ("image: truncated", 1, "cut"),
        ("caption: empty", 1, "blank"),
    ]
    assert seen.shards == [(str(tmp_path / "x" / "a.tar"), 4), (str(tmp_path / "x" / "b.tar"), 1)]


def test_labels_are_looked_at_where_the_run_has_them(tmp_path: Path):
    members = [
        member
        for number, shows in enumerate((1, "x", None))
        for member in ((f"{number}.jpg", WHOLE), (f"{number}.json", json.dumps({"shows": shows, "text": "t"}).encode()))
    ]
    toys.write_tar(tmp_path / "a.tar", members)
    opened = reader(settings(tmp_path, caption_key="json.text", label_key="json.shows"))
    seen = verify(opened, range(3), Limits())
    assert [(one.key, one.reason) for one in seen.bad] == [("2", "label: no value")]


def test_a_shard_that_vanishes_spoils_its_samples_and_not_the_search(tmp_path: Path):
    toys.write_shards(tmp_path, 20, 2)
    opened = reader(settings(tmp_path, damaged_shards="substitute", retries=0))
    (tmp_path / "00000.tar").unlink()
    seen = verify(opened, range(20), Limits())
    assert [one.reason for one in seen.bad] == ["shard: missing"] * 10
    assert {one.location for one in seen.bad} == {str(tmp_path / "00000.tar")}
