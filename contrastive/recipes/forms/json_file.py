"""JSON documents whose lists are read item by item: the text is held, what it says is not.

The captions of COCO are 95 MB of text, and would take 300 MB more as objects of Python.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from contrastive.errors import DataError

DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\n\r]*")


class JsonFile:
    """A document that is an object or a list.

    Raises:
        DataError: there is no such file, or it is no JSON.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = _text(path)
        self._start = self._blank(0)

    @property
    def is_list(self) -> bool:
        """Whether the document is a list."""
        return self.text[self._start : self._start + 1] == "["

    @cached_property
    def members(self) -> dict[str, int]:
        """Where the values of an object begin, by key; the whole text is read, so that a broken one is told here."""
        found: dict[str, int] = {}
        if self.text[self._start : self._start + 1] != "{":
            raise self._broken("is no JSON object", self._start)
        at = self._blank(self._start + 1)
        while self.text[at : at + 1] != "}":
            key, at = self._value(at)
            at = self._blank(at)
            if not isinstance(key, str) or self.text[at : at + 1] != ":":
                raise self._broken("is no JSON (a key and a colon were expected)", at)
            at = self._blank(at + 1)
            found[key] = at
            at = self._next(self._behind(at), "}")
        if self.text[self._blank(at + 1) :]:
            raise self._broken("is no JSON (there is something behind its end)", at + 1)
        return found

    def items(self, key: str | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the items of the list under `key` with where they begin; None: of the document, which is a list.

        Raises:
            DataError: there is no such list, or it is no JSON.
        """
        if key is not None and key not in self.members:
            raise DataError(f"{self.path}: has no {key!r}; it has {', '.join(self.members) or 'nothing'}")
        start = self._start if key is None else self.members[key]
        if self.text[start : start + 1] != "[":
            raise self._broken(f"{key or 'the document'} is no list", start)
        at = self._blank(start + 1)
        while self.text[at : at + 1] != "]":
            value, end = self._value(at)
            yield at, value
            at = self._next(end, "]")

    def at(self, place: int) -> Any:
        """Return the value that begins at a place."""
        return self._value(place)[0]

    def _behind(self, at: int) -> int:
        """Return where the value at a place ends; a list is not built."""
        if self.text[at : at + 1] != "[":
            return self._value(at)[1]
        at = self._blank(at + 1)
        while self.text[at : at + 1] != "]":
            at = self._next(self._value(at)[1], "]")
        return at + 1

    def _next(self, at: int, end: str) -> int:
        """Return where the next value begins, or `end` stands."""
        at = self._blank(at)
        sign = self.text[at : at + 1]
        if sign == end:
            return at
        following = self._blank(at + 1)
        if sign != "," or self.text[following : following + 1] == end:
            raise self._broken(f"is no JSON (a comma or {end} was expected)", at)
        return following

    def _blank(self, at: int) -> int:
        found = BLANKS.match(self.text, at)
        return at if found is None else found.end()

    def _value(self, at: int) -> tuple[Any, int]:
        try:
            value, end = DECODER.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            raise self._broken(f"is no JSON ({error.msg})", error.pos) from None
        except RecursionError:
            raise self._broken("is nested too deeply", at) from None
        return value, end

    def _broken(self, what: str, at: int) -> DataError:
        line = self.text.count("\n", 0, at) + 1
        return DataError(f"{self.path}: line {line}: {what}; write or copy it again")


def _text(path: str) -> str:
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if path.endswith(".gz") else content
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no {path}; copy it there, or correct the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
