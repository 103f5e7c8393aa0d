import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.errors import DataError
from contrastive.recipes.curation import signatures
from contrastive.recipes.curation.exact import digest, of_pixels
from contrastive.recipes.curation.perceptual import look
from contrastive.recipes.curation.signatures import (
    OfPictures,
    OfSamples,
    Span,
    Wanted,
    in_pieces,
    layout,
    reasons,
    signed,
)
from contrastive.recipes.engine import Local
from tests import toys
from tests.data.toys import reader, settings
from tests.recipes.curation.pictures import Shown

SPANS: list[Span] = []


def ignore(done: int, total: int) -> None:
    pass


def counted(span: Span) -> np.ndarray:
    SPANS.append(span)
    records = np.zeros(span[1] - span[0], layout(Wanted()))
    records["state"], records["size"] = 1, np.arange(*span)[:, None]
    return records


def dying(span: Span) -> np.ndarray:
    if span[0] >= 8:
        os._exit(9)
    return counted(span)


@pytest.fixture(autouse=True)
def _short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "SPAN", 4)
    SPANS.clear()


def test_a_record_holds_what_is_wanted_of_a_sample(shards: Path):
    records = OfSamples(reader(settings(shards, caption_key="txt")), Wanted(pixels=True, looks=True))((3, 7))
    for record, number in zip(records, range(3, 7), strict=True):
        encoded, seen = toys.encode(toys.image(number)), look(toys.image(number))
        assert tuple(record["digest"]) == digest([encoded])
        assert tuple(record["pixels"]) == of_pixels(toys.image(number))
        assert record["hash"] == seen.hash
        assert np.array_equal(record["luma"], seen.luma)
        assert record["size"].tolist() == [toys.SIZE, toys.SIZE]
    assert in_pieces(records, "state").tolist() == [1] * 4


def test_pairs_are_equal_only_with_equal_captions_and_captions_need_no_image(tmp_path: Path):
    image, broken = toys.encode(toys.image(1)), b"no image"
    members = [
        ("a.png", image),
        ("a.txt", b"one"),
        ("b.png", image),
        ("b.txt", b"two"),
        ("c.png", broken),
        ("c.txt", b"one"),
    ]
    toys.write_tar(tmp_path / "0.tar", members)
    opened = reader(settings(tmp_path, caption_key="txt"))
    images, pairs, captions = (OfSamples(opened, Wanted(of))((0, 3)) for of in ("image", "pair", "caption"))
    assert (images["digest"][0] == images["digest"][1]).all()
    assert (pairs["digest"][0] != pairs["digest"][1]).any()
    assert (captions["digest"][0] == captions["digest"][2]).all()
    assert reasons(images) == {2: "image: not an image"}
    assert reasons(captions) == {}


def test_pictures_are_looked_at_like_samples_and_broken_ones_are_named():
    image = Image.fromarray(toys.image(5))
    records = OfPictures([Shown(image), Shown(None)], Wanted(None, looks=True, pixels=True))((0, 2))
    assert tuple(records["pixels"][0]) == of_pixels(toys.image(5))
    assert records["hash"][0] == look(toys.image(5)).hash
    assert reasons(records) == {1: "image: cannot be read"}


def test_a_flat_image_always_has_a_digest_of_its_pixels():
    flat = Image.new("RGB", (9, 9), (3, 3, 3))
    records = OfPictures([Shown(flat)], Wanted(None, looks=True))((0, 1))
    assert records["flat"][0] == 1
    assert tuple(records["pixels"][0]) == of_pixels(np.asarray(flat))


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_pass_goes_on_where_it_was_cut(tmp_path: Path, cut: int):
    path, kind = tmp_path / "parts" / "a.bin", layout(Wanted())
    whole = signed(path, 10, counted, kind, Local(1), ignore).copy()
    assert SPANS == [(0, 4), (4, 8), (8, 10)]
    os.truncate(path, 6 * kind.itemsize - cut)
    SPANS.clear()
    again = signed(path, 10, counted, kind, Local(1), ignore)
    assert SPANS[0][0] == (6 if cut == 0 else 5)
    assert np.array_equal(again, whole)
    assert again["size"][:, 0].tolist() == list(range(10))


def test_blank_records_of_a_crash_are_made_again(tmp_path: Path):
    path, kind = tmp_path / "a.bin", layout(Wanted())
    signed(path, 8, counted, kind, Local(1), ignore)
    with path.open("r+b") as file:
        file.seek(5 * kind.itemsize)
        file.write(bytes(2 * kind.itemsize))
    SPANS.clear()
    assert signed(path, 8, counted, kind, Local(1), ignore)["size"][:, 0].tolist() == list(range(8))
    assert SPANS == [(5, 8)]


def test_a_process_that_dies_loses_no_finished_span(tmp_path: Path):
    path, kind = tmp_path / "a.bin", layout(Wanted())
    with pytest.raises(DataError, match="run the command again"):
        signed(path, 40, dying, kind, Local(2), ignore)
    assert path.stat().st_size % kind.itemsize == 0
    assert signed(path, 40, counted, kind, Local(1), ignore)["size"][:, 0].tolist() == list(range(40))


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"a.bin: cannot be written \(No space left on device\); make room there"):
        signed(tmp_path / "a.bin", 4, counted, layout(Wanted()), Local(1), ignore)
