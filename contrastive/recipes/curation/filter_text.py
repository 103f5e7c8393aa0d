"""Captions as words, and long lists of phrases found in them."""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from contrastive.errors import DataError


def spaced(text: str) -> list[str]:
    """Return the words of a text and, each alone, its marks of punctuation and symbols.

    Compatible characters are one (NFKC), and so are cases; invisible ones are left out. Words are what stands between
    blanks: text of scripts that put none is one word.
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_marks()).split()


def words_of(text: str) -> list[str]:
    """Return the words of a text as `spaced` does, without the marks."""
    return [word for word in spaced(text) if unicodedata.category(word[0])[0] not in "PS"]


class Phrases:
    """A list of phrases, each of several words, that are found wherever their words follow each other.

    `Phrases.found` walks from each word as far as some phrase goes on: it costs about one look-up for each word of the
    text, whatever the number of phrases. Half a million take 90 MB.
    """

    def __init__(self, phrases: Iterable[Iterable[str]]) -> None:
        self.names: list[str] = []  # the words of each phrase with one blank between, each phrase once
        self._begun: dict[str, int] = {}  # all beginnings of phrases; where it is a whole one its number, else -1
        for words in phrases:
            name = ""
            for word in words:
                name = f"{name} {word}" if name else word
                self._begun.setdefault(name, -1)
            if name and self._begun[name] < 0:
                self._begun[name] = len(self.names)
                self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)

    def found(self, words: list[str]) -> Iterator[int]:
        """Yield the number of each phrase at each place where it stands in the words."""
        begun = self._begun
        for start, word in enumerate(words):
            end, name = start + 1, word
            while (number := begun.get(name)) is not None:
                if number >= 0:
                    yield number
                if end == len(words):
                    break
                name = f"{name} {words[end]}"
                end += 1

    def stand_in(self, words: list[str]) -> bool:
        """Return whether one of the phrases stands in the words."""
        return next(self.found(words), None) is not None


def read_phrases(path: Path) -> list[str]:
    """Return the phrases of a file, in its order: a JSON list of texts, or a text with one on each line.

    Raises:
        DataError: it cannot be read, is no such list, or holds none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"{path}: cannot be read: {why}") from None
    lines = _json_list(text, path) if path.suffix.lower() == ".json" else text.splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path}: holds no phrase; write one on each line, or a JSON list of texts")
    return found


def _json_list(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); it must be a list of texts") from None
    if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
        raise DataError(f"{path}: must be a JSON list of texts")
    return content


class _Marks(dict[int, str]):
    """What each character becomes, filled as they come."""

    def __missing__(self, code: int) -> str:
        mark = chr(code)
        kind = unicodedata.category(mark)
        if kind[0] == "Z" or kind == "Cc":
            mark = " "
        elif kind == "Cf":
            mark = ""
        elif kind[0] in "PS":
            mark = f" {mark} "
        self[code] = mark
        return mark


@cache
def _marks() -> _Marks:
    return _Marks()
