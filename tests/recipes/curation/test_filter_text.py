"""Words of captions, and phrases in them."""

import json
import random
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes.curation.filter_text import Phrases, read_phrases, spaced, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog, two CATS!", ["a", "dog", ",", "two", "cats", "!"]),
        ("STRASSE Straße", ["strasse", "strasse"]),  # case-folded
        ("ﬁne ｆｕｌｌ", ["fine", "full"]),  # compatible characters
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("tab\tline\nno\u00a0break\u3000wide", ["tab", "line", "no", "break", "wide"]),
        ("कुत्ता दौड़", ["कुत्ता", "दौड़"]),  # vowel signs belong to their word
        ("$5 — t-shirt's", ["$", "5", "—", "t", "-", "shirt", "'", "s"]),
        ("", []),
    ],
)
def test_text_becomes_words_and_marks(text: str, words: list[str]):
    assert spaced(text) == words


def test_words_leave_the_marks_out():
    assert words_of("A dog, on the beach... (2019)!") == ["a", "dog", "on", "the", "beach", "2019"]


def test_phrases_are_found_as_substrings_between_blanks():
    draw = random.Random(0)
    letters = "abcde"
    phrases = list({" ".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(60)})
    found = Phrases(phrase.split() for phrase in phrases)
    for _ in range(300):
        words = draw.choices(letters, k=draw.randint(0, 12))
        text = f" {' '.join(words)} "
        expected = {phrase for phrase in phrases if f" {phrase} " in text}
        assert {found.names[number] for number in found.found(words)} == expected
        assert found.stand_in(words) == bool(expected)


def test_equal_phrases_are_one_and_empty_ones_none():
    found = Phrases(spaced(text) for text in ("New York", "new  york", "", "york"))
    assert found.names == ["new york", "york"]
    assert len(found) == 2


def test_phrases_are_read_from_lines_and_from_json(tmp_path: Path):
    lines, listed = tmp_path / "a.txt", tmp_path / "a.json"
    lines.write_bytes("\ufeffdog\r\n\r\n  new york \n".encode())
    listed.write_text(json.dumps(["dog", " new york", ""]))
    assert read_phrases(lines) == read_phrases(listed) == ["dog", "new york"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\n \n", "holds no phrase"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read: it is not UTF-8"),
        ("a.json", b"[1]", "must be a JSON list of texts"),
        ("a.json", b"{", "is no JSON"),
        (None, b"", "cannot be read: No such file"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, name: str | None, content: bytes, said: str):
    path = tmp_path / (name or "absent.txt")
    if name:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_phrases(path)
