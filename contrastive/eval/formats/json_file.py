"""JSON and JSON Lines files of annotations, and the fields of their records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from contrastive.errors import DataError

T = TypeVar("T")
WORDS = {str: "a text", list: "a list", dict: "an object", int: "a whole number"}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: there is no such file, or it is no JSON.
    """
    text = _text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: is no JSON ({error.msg}); write or copy it again") from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file with the numbers of their lines, from 1; empty lines hold none.

    Raises:
        DataError: there is no such file, or a line is no JSON object.
    """
    for number, line in enumerate(_text(path).split("\n"), 1):  # splitlines() also splits at U+2028 within a text
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number}: is no JSON ({error.msg}); write one object a line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number}: {line[:40]!r} is no object; write {{column: value, …}}")
        yield number, record


def field(record: Any, key: str, kind: type[T], where: str) -> T:
    """Return record[key], which must be there and of that type; `where` names the record in messages.

    Raises:
        DataError: the record is no object, has no such key, or another type there.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: {str(record)[:40]!r} is no object with {key!r}")
    if key not in record:
        raise DataError(f"{where}: has no {key!r}; it has {', '.join(map(str, record)) or 'nothing'}")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: {key}: {str(value)[:40]!r} must be {WORDS.get(kind, kind.__name__)}")
    return value


def text_field(record: Any, key: str, where: str) -> str:
    """Return the text record[key] as it stands.

    Raises:
        DataError: see `field`; or it is empty.
    """
    text = field(record, key, str, where)
    if not text.strip():
        raise DataError(f"{where}: {key} is empty; write a text or remove the entry")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no {path}; copy it there, or correct root and split") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
