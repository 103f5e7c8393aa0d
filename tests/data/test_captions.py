from collections import Counter
from typing import Any

import numpy as np
import pytest

from contrastive.data.captions import CaptionChoice, texts
from contrastive.errors import ConfigError

TWO = {"txt": 1, "json.recaption": 3}


def first(choice: CaptionChoice, draw: float, held: set[str]) -> str:
    return next(iter(choice.drawn(draw, dict.fromkeys(held))))[0]


def test_keys_are_drawn_in_proportion_to_their_weights():
    choice = CaptionChoice.parse(TWO)
    drawn = Counter(first(choice, draw, {"txt", "json", "jpg"}) for draw in np.arange(1000) / 1000)
    assert drawn == {"txt": 250, "json.recaption": 750}


def test_an_absent_member_leaves_its_share_to_the_others():
    choice = CaptionChoice.parse({"txt": 1, "json.a": 2, "alt": 1})
    drawn = Counter(first(choice, draw, {"txt", "alt"}) for draw in np.arange(1000) / 1000)
    assert drawn == {"txt": 500, "alt": 500}


def test_what_is_left_of_the_draw_is_uniform_again():
    choice = CaptionChoice.parse(TWO)
    inner = [next(choice.drawn(draw, {"txt": 0, "json": 0})) for draw in np.arange(1000) / 1000]
    for key, count in (("txt", 250), ("json.recaption", 750)):
        left = np.array([value for name, value in inner if name == key])
        np.testing.assert_allclose(left, np.arange(count) / count, atol=1e-9)
    assert all(0 <= value < 1 for _, value in inner)


def test_one_key_keeps_its_draw_to_the_last_bit():
    for draw in (0.0, 1 / 3, 0.999999, 1 - 2**-53):
        assert list(CaptionChoice.parse("txt").drawn(draw, {"txt": 0})) == [("txt", draw)]


def test_the_other_keys_follow_for_whoever_finds_nothing():
    found = [key for key, _ in CaptionChoice.parse(TWO).drawn(0.9, {"txt": 0, "json": 0})]
    assert found == ["json.recaption", "txt"]
    assert list(CaptionChoice.parse(TWO).drawn(0.9, {"jpg": 0})) == []


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        (b" a cat \n", "txt", ["a cat"]),
        (b"caf\xe9", "txt", ["caf\ufffd"]),
        (b"  ", "txt", []),
        (b'{"c": "x"}', "json.c", ["x"]),
        (b'{"c": ["x", "", 3, " y "]}', "json.c", ["x", "y"]),
        (b'{"c": null}', "json.c", []),
        (b'{"a.b": "dotted"}', "json.a.b", ["dotted"]),
    ],
)
def test_captions_of_a_member(content: bytes, key: str, expected: list[str]):
    assert texts(content, key) == expected


@pytest.mark.parametrize("content", [b"no json", b"[1]", b'{"d": 1}', b"3", b"[" * 100_000])
def test_a_member_without_the_field_says_so(content: bytes):
    with pytest.raises(ValueError, match="its json member is no JSON with a field 'c'"):
        texts(content, "json.c")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "data.caption_key: '' must be a member"),
        ({}, "must be a member"),
        (["txt"], "must be a member"),
        ({"txt": 0}, "data.caption_key.txt: 0.0 must be more than 0"),
        ({"txt": float("nan")}, "must be more than 0"),
        ({"txt": "much"}, "data.caption_key.txt: 'much' is not float"),
    ],
)
def test_a_wrong_choice_is_named(value: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        CaptionChoice.parse(value)


def test_members_are_named_once():
    assert CaptionChoice.parse({"json.a": 1, "json.b": 1, "txt": 1}).members == ("json", "txt")
