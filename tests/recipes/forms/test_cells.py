import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.recipes.forms.cells import BadRowError, Images, as_png, captions_of, name_of, plain, shown
from contrastive.recipes.records import File
from tests.recipes.forms.test_arrays import pixels


def test_paths_are_named_below_the_root() -> None:
    images = Images("/data/photos")
    wanted = {
        "a.jpg": "a",
        "b/c.v2.png": "b/c.v2",
        "./d//e.jpg": "d/e",
        "/data/photos/f.jpg": "f",
        "file:///data/photos/a%20b.jpg": "a b",
        "x/../g.jpg": "g",
        "noending": "noending",
    }
    assert {path: images.file(path)[1] for path in wanted} == wanted
    assert images.file("d/../b/c.png")[0] == File("/data/photos/b/c.png")
    assert Images("/").file("/data/a.jpg") == (File("/data/a.jpg"), "data/a")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "image: missing"),
        (" ", "image: missing"),
        (5, "image: no path"),
        ("a\0b", "image: no path"),
        ("https://x.org/a.jpg", "image: an address"),
        ("s3://x/a.jpg", "image: an address"),
        ("../a.jpg", "image: outside root"),
        (b"", "image: empty"),
        ({"bytes": None, "path": None}, "image: missing"),
    ],
)
def test_what_names_no_image_is_told(value: Any, reason: str) -> None:
    with pytest.raises(BadRowError) as caught:
        Images("/data").of(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
def test_an_image_of_pillow_is_kept_as_png(mode: str) -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).convert(mode)
    content, key = Images("/").of(image)
    assert (content, len(key)) == (as_png(image), 16)
    assert isinstance(content, bytes)
    wanted = image.convert("RGB") if mode == "CMYK" else image
    np.testing.assert_array_equal(pixels(content), np.asarray(wanted))


def test_captions_are_stripped_and_empty_ones_left_out() -> None:
    assert captions_of([" a ", None, "", ["b", " ", "a"], ("c",)]) == ("a", "b", "a", "c")
    for values, reason in (([], "missing"), ([None], "missing"), (["", " "], "empty"), ([[]], "missing")):
        with pytest.raises(BadRowError) as caught:
            captions_of(values)
        assert caught.value.reason == f"caption: {reason}"


def test_names_are_texts_or_whole_numbers() -> None:
    assert [name_of(one, "id") for one in (" a ", 5, 5.0, 0)] == ["a", "5", "5", "0"]
    for value in (None, "", " ", 0.5, True, ["a"]):
        with pytest.raises(BadRowError, match="id"):
            name_of(value, "id")


def test_plain_values_are_what_json_holds() -> None:
    values = {
        "day": date(2020, 1, 2),
        "time": datetime(2020, 1, 2, 3),
        "price": Decimal("1.50"),
        "nan": float("nan"),
        "bytes": b"x",
        "deep": [1, {"a": (None, "ä")}],
    }
    wanted = {
        "day": "2020-01-02",
        "time": "2020-01-02T03:00:00",
        "price": "1.50",
        "nan": None,
        "bytes": None,
        "deep": [1, {"a": [None, "ä"]}],
    }
    assert json.loads(json.dumps(plain(values), allow_nan=False)) == wanted


def test_long_values_are_cut_in_messages() -> None:
    assert shown("short") == "'short'"
    assert (len(shown("x" * 999)), shown("x" * 999)[-3:]) == (60, "...")
