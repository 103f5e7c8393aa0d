"""Markdown that text from elsewhere cannot break, and that shows nothing of the machine it was written on."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contrastive.tracking.redaction import HIDDEN, redacted

LONGEST = 300  # characters of one value: what is longer was not meant for a reader
SPECIAL = re.compile(r"([\\`*\[\]{}|~$#!])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # snake_case is left as it is
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LOCAL = re.compile(r"(?:file:)?/|~|\.\.?(?:[/\\]|$)|[A-Za-z]:[/\\]|\\\\")
# A path within a text, behind what may come before one (hf:/home/…, ViT-B-32@/home/…), but not within a URL.
PATH = re.compile(r"(?<![^\s:@=,;(\"'\[])(?:~[^\s/]*|\.\.?|[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])*([^\s/\\]*)")


def escaped(text: object) -> str:
    """Return the text on one line, with nothing that Markdown, HTML or a table would act on."""
    line = _line(str(text))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    return SPECIAL.sub(r"\\\g<0>", line).translate(ENTITIES)


def bare(text: object) -> str:
    """Return the text on one line and without angle brackets, for where a name is shown as it is."""
    return re.sub("[<>]", "", _line(str(text)))[:LONGEST].strip()


def on_one_line(text: str) -> str:
    """Return Markdown of ours on one line, without HTML."""
    return _line(text).translate(ENTITIES)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; what stands in it is escaped."""
    lines = [headings, ["---"] * len(headings)]
    shown = [*lines, *([escaped(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in shown]


def place(value: Any) -> str:
    """Return where something lies, fit to be read by anybody.

    Of a path of this machine the last part is left, of a URL what is not a secret, of a command nothing. Relative paths
    that stay below their folder are whole: they are names that the user gave.
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(place, value))
    text = str(redacted(str(value)))
    if text.startswith("pipe:"):
        return f"pipe:{HIDDEN}"
    return "::".join(_last(part) if _is_local(part) else without_paths(part) for part in text.split("::"))


def without_paths(text: str) -> str:
    """Return a text in which credentials of URLs are hidden, and of absolute paths the last part is left."""
    text = str(redacted(text)).replace(str(Path.home()), "~")
    words = re.split(r"([A-Za-z][A-Za-z0-9+.-]*://\S+)", text)
    shown = [word if URL.match(word) and not word.startswith("file:") else PATH.sub(r"\1", word) for word in words]
    return "".join(shown)


def shown(value: Any) -> str:
    """Return a value of a configuration in words: mappings as `name: value`, strings as `place` shows them."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return place(value) if isinstance(value, str) else str(value)


def _line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _is_local(text: str) -> bool:
    if URL.match(text) and not text.startswith("file:"):
        return False
    return LOCAL.match(text) is not None or ".." in re.split(r"[/\\]", text)


def _last(path: str) -> str:
    return next((part for part in reversed(re.split(r"[/\\]", path)) if part not in ("", ".", "..", "~")), HIDDEN)
