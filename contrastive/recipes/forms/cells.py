"""What the cells of a row say, whatever kind of file it stands in: an image, captions, a key, further fields."""

import base64
import binascii
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from PIL import Image

from contrastive.recipes.records import Content, File, Rejected

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
FILE, INLINE = "file://", "data:"
AN_ADDRESS = "image: an address"
PNG_LEVEL = 1  # of zlib: 6 takes two to four times as long for photos that are 6 to 14 % smaller


class BadRowError(ValueError):
    """A row that is no sample: `reason` is one of few, to count by; the message says which rule, and the value."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def at(self, where: str, key: str = "") -> Rejected:
        """Return what is written down of the row."""
        return Rejected(printable(where), printable(key), self.reason, printable(f"{where}: {self}"))


@dataclass(frozen=True)
class Images:
    """Finds the images that cells name: below `root`, by absolute path, or in the cell itself.

    A relative path must not lead out of the root: an absolute one is what its writer meant, `..` is mostly a wrong
    root. Backslashes are read as slashes, and `file://` is passed over. With `base64` a text is the image itself.
    """

    root: str
    base64: bool = False

    def of(self, value: Any) -> tuple[Content, str]:
        """Return the image that a cell holds or names, and its own name: the path below the root without its ending.

        An image in the cell is named by a hash of its bytes, behind the name that the cell gives it. One that lies
        elsewhere is named by its folder and a hash of the folder's path, which itself would tell of the machine.

        Raises:
            BadRowError: there is none.
        """
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            return inline(content, stem(str(path or ""))) if content is not None else self.of(path)
        if isinstance(value, Image.Image):
            return inline(as_png(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return inline(bytes(value))
        if value is None or (isinstance(value, str) and not value.strip()):
            raise BadRowError("image: missing", "names no image")
        if not isinstance(value, str):
            raise BadRowError("image: no path", f"its image {shown(value)} must be a path")
        if self.base64 or value.startswith(INLINE):
            return inline(_from_base64(value))
        return self.file(value.strip())

    def file(self, path: str) -> tuple[File, str]:
        """Return the file of a path as it was written, and its name.

        Raises:
            BadRowError: it is an address of the web, or leads out of the root.
        """
        if path.startswith(FILE):
            path = unquote(path.removeprefix(FILE).removeprefix("localhost"))
        elif ADDRESS.match(path):
            raise BadRowError(AN_ADDRESS, f"its image {shown(path)} is an address; download it first")
        path = path.replace("\\", "/")
        if "\0" in path:
            raise BadRowError("image: no path", f"its image {shown(path)} must be a path")
        whole = os.path.normpath(os.path.join(self.root, path))
        inside = self.root.rstrip("/") + "/"
        if whole.startswith(inside):
            return File(whole), os.path.splitext(whole[len(inside) :])[0]
        if not os.path.isabs(path):
            rule = f"leads out of {self.root}; set root to a folder that holds all images"
            raise BadRowError("image: outside root", f"its image {shown(path)} {rule}")
        folder, name = os.path.split(whole)
        return File(whole), f"{os.path.basename(folder)}-{digest(os.fsencode(folder), 4)}/{os.path.splitext(name)[0]}"


def inline(content: bytes, name: str = "") -> tuple[bytes, str]:
    """Return the bytes of an image and a name for them: equal bytes have one, others in practice never.

    Raises:
        BadRowError: there are none.
    """
    if not content:
        raise BadRowError("image: empty", "its image has no bytes")
    own = digest(content, 8)
    return content, f"{name}-{own}" if name else own


def as_png(image: Image.Image) -> bytes:
    """Return an image as PNG, which loses nothing."""
    content = io.BytesIO()
    plain = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    plain.save(content, "PNG", compress_level=PNG_LEVEL)
    return content.getvalue()


def captions_of(values: Iterable[Any]) -> tuple[str, ...]:
    """Return the captions in cells, each a text or a list of texts, stripped; empty ones are left out.

    Raises:
        BadRowError: there is none, or one is no text.
    """
    found, given = [], False
    for value in values:
        for text in value if isinstance(value, list | tuple) else (value,):
            if text is None:
                continue
            if not isinstance(text, str):
                raise BadRowError("caption: no text", f"its caption {shown(text)} must be a text")
            given = True
            if text.strip():
                found.append(utf8(text.strip(), "caption"))
    if not found and given:
        raise BadRowError("caption: empty", "its caption is empty")
    if not found:
        raise BadRowError("caption: missing", "has no caption")
    return tuple(found)


def name_of(value: Any, what: str) -> str:
    """Return an id or another name as text.

    Raises:
        BadRowError: it is empty, or neither a text nor a whole number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what pandas makes of whole numbers in a column with gaps
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{what}: missing", f"has no {what}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError(f"{what}: no name", f"its {what} {shown(value)} must be a text or a whole number")
    return utf8(str(value).strip(), what)


def utf8(text: str, what: str) -> str:
    """Return the text.

    Raises:
        BadRowError: it holds half a character, as broken JSON escapes do, which no file can hold.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRowError(f"{what}: not UTF-8", f"its {what} {shown(text)} is not UTF-8") from None
    return text


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; None of one that it cannot."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, dict):
        return {str(plain(str(key))): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, date | datetime | time) else None


def is_scalar(value: Any) -> bool:
    """Whether a value is one cell's worth, as `fields: *` takes it."""
    return not isinstance(value, dict | list | tuple | bytes) and plain(value) is not None


def shown(value: Any) -> str:
    """Return the begin of a value, for messages."""
    return printable(repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}...")


def printable(text: str) -> str:
    """Return a text without surrogates, which stand for bytes that are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def stem(path: str) -> str:
    """Return the last part of a path without its ending."""
    return os.path.splitext(path.replace("\\", "/").rpartition("/")[2])[0]


def digest(content: bytes, size: int) -> str:
    """Return a hexadecimal hash of so many bytes."""
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _from_base64(text: str) -> bytes:
    if text.startswith(INLINE):
        text = text.partition(",")[2]
    packed = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRowError("image: no base64", f"its image {shown(text)} is no base64") from None
