import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.arrays import Arrays
from tests import toys
from tests.recipes.forms.trees import content, read, reasons, refused, said, write

COLOURS = np.stack([toys.image(number, 5) for number in range(3)])
CAPTIONS = ["one", "two, é", "three"]


def pixels(encoded: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded))
    assert image.format == "PNG"
    return np.asarray(image)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images", [COLOURS, COLOURS[..., 0], COLOURS[..., :1]])
def test_images_and_captions_come_back_as_they_were(tmp_path: Path, save: Any, images: np.ndarray) -> None:
    save(tmp_path / "a.npz", images=images, captions=CAPTIONS)
    records, rejected = read(Arrays(str(tmp_path / "a.npz")))
    assert not rejected
    assert [record.captions for record in records] == [(caption,) for caption in CAPTIONS]
    assert [record.key for record in records] == ["000000000", "000000001", "000000002"]
    for record, image in zip(records, images, strict=True):
        np.testing.assert_array_equal(pixels(content(record)), np.squeeze(image))


def test_ids_several_captions_and_further_arrays_are_read(tmp_path: Path) -> None:
    captions = np.array([["a", "b"], ["c", ""], ["d", "e"]])
    arrays = {"label": np.arange(3), "score": np.array([0.5, np.nan, 1]), "odd": np.zeros(5)}
    path = saved(tmp_path / "a.npz", x=COLOURS, y=captions, name=["k1", "k2", "k3"], **arrays)
    records, _ = read(Arrays(str(path), images="x", captions="y", ids="name"))
    assert said(records) == {"k1": ("a", "b"), "k2": ("c",), "k3": ("d", "e")}
    assert [record.fields for record in records] == [{"label": 0, "score": 0.5}, {"label": 1}, {"label": 2, "score": 1}]


def test_captions_may_lie_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", COLOURS)
    text = b"\xef\xbb\xbf" + "\r\n".join(CAPTIONS).encode()
    write(tmp_path / "captions.txt", text)
    records, _ = read(Arrays(str(tmp_path / "images.npy")))
    assert [record.captions for record in records] == [(caption,) for caption in CAPTIONS]
    np.testing.assert_array_equal(pixels(content(records[2])), COLOURS[2])
    np.save(tmp_path / "texts.npy", np.array(CAPTIONS))
    records, _ = read(Arrays(str(tmp_path / "images.npy"), captions=str(tmp_path / "texts.npy")))
    assert [record.captions for record in records] == [(caption,) for caption in CAPTIONS]


def test_bytes_are_read_as_utf8(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=COLOURS, captions=np.array([b"one", "é".encode(), b"\xe9"]))
    records, rejected = read(Arrays(str(path)))
    assert ([record.captions[0] for record in records], reasons(rejected)) == (["one", "é"], ["caption: not UTF-8"])


def test_empty_and_missing_captions_are_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=COLOURS, captions=["one", " ", "two"])
    assert reasons(read(Arrays(str(path)))[1]) == ["caption: empty"]
    np.save(tmp_path / "b.npy", COLOURS)
    write(tmp_path / "captions.txt", "one\n")
    assert reasons(read(Arrays(str(tmp_path / "b.npy")))[1]) == ["caption: missing"] * 2
    write(tmp_path / "captions.txt", "one\n" * 5)
    assert "there are 2 lines more than images" in refused(Arrays, tmp_path / "b.npy", error=DataError)


@pytest.mark.parametrize(
    ("images", "rule"),
    [
        (COLOURS / 255, "has type float64; images must be uint8 from 0 to 255; of floats from 0 to 1 save"),
        (COLOURS.transpose(0, 3, 1, 2), "has shape [3, 3, 5, 5]; save images.transpose(0, 2, 3, 1), colours last"),
        (COLOURS[0, 0], "has shape [5, 3]; images must be [N, H, W, 3] or [N, H, W]"),
        (np.zeros((2, 4, 4, 2), np.uint8), "has shape [2, 4, 4, 2]; images must be"),
        (COLOURS[:0], "holds no row: its shape is [0, 5, 5, 3]"),
        (np.asfortranarray(COLOURS), "lies column by column; save np.ascontiguousarray(array)"),
    ],
)
def test_images_of_another_form_are_refused_with_the_rule(tmp_path: Path, images: np.ndarray, rule: str) -> None:
    path = saved(tmp_path / "a.npz", images=images, captions=CAPTIONS)
    assert refused(Arrays, path, error=DataError).startswith(f"{path}, images: {rule}")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=COLOURS, captions=np.array(CAPTIONS, dtype=object))
    rule = "holds Python objects, which are not unpickled; save texts as np.array(captions, dtype=str)"
    assert refused(Arrays, path, error=DataError) == f"{path}, captions: {rule}"


def test_what_is_missing_or_of_another_length_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=COLOURS, texts=CAPTIONS[:2])
    assert refused(Arrays, path, error=ConfigError).startswith(f"images: {path} has no array 'images'; it has x, texts")
    said = refused(Arrays, path, error=ConfigError, images="x")
    assert "has no array captions and no captions.txt or captions.npy beside it (it has x, texts)" in said
    assert "has 2 rows for 3 images" in refused(Arrays, path, images="x", captions="texts")
    write(tmp_path / "lines.txt", "\n".join(CAPTIONS))
    said = refused(Arrays, path, images="x", captions=tmp_path / "lines.txt", ids="uids")
    assert said == f"ids: {path} has no array uids (it has x, texts); name an array or a file"
    assert "cannot be read as NumPy's .npz or .npy" in refused(Arrays, write(tmp_path / "b.npz", "x"))
    assert "is no NumPy array" in refused(Arrays, write(tmp_path / "c.npy", "x" * 99))
    assert "No such file" in refused(Arrays, tmp_path / "d.npy")


def test_a_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COLOURS)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-9])
    write(tmp_path / "captions.txt", "\n".join(CAPTIONS))
    assert "is cut short; copy it again" in refused(Arrays, tmp_path / "a.npy", error=DataError)
