"""Small sources of images and captions, and what a form reads of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import UserError
from contrastive.recipes.records import File, Form, Record, Rejected
from tests import toys


def png(number: int) -> bytes:
    return toys.encode(toys.image(number, 4))


def write_images(folder: Path, *names: str) -> Path:
    """Write an image a name; image i has the pixels of number i."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_json(path: Path, content: Any) -> Path:
    return write(path, json.dumps(content))


def lines(*rows: Iterable[object], separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def read(form: Form) -> tuple[list[Record], list[Rejected]]:
    """Return what a form yields: the records, and the rejected rows."""
    found = list(form.records())
    rejected = [one for one in found if isinstance(one, Rejected)]
    for one in rejected:
        assert one.message.startswith(one.where)
        assert "\n" not in one.message
    return [one for one in found if isinstance(one, Record)], rejected


def content(record: Record) -> bytes:
    """Return the bytes of a record's image, whose file or inline bytes it names."""
    if isinstance(record.image, File):
        return Path(record.image.path).read_bytes()
    assert isinstance(record.image, bytes)
    return record.image


def said(records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    return {record.key: record.captions for record in records}


def reasons(rejected: Iterable[Rejected]) -> list[str]:
    return [one.reason for one in rejected]


def refused(form: Any, *arguments: Any, error: type[UserError] = UserError, **options: Any) -> str:
    """Return what is said of a source that a form refuses at the door or at its first record."""
    with pytest.raises(error) as caught:
        list(form(*map(str, arguments), **options).records())
    message = str(caught.value)
    assert "\n" not in message
    return message
