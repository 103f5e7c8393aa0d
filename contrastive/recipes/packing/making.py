"""One sample of a listing as the members that stand in a tar: its image checked, its captions and fields as they go."""

import errno
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from contrastive.data.storage import ReadError, Storage, is_remote
from contrastive.data.stream import BadSampleError
from contrastive.errors import DataError
from contrastive.modalities.decode import MAX_PIXELS, BadImageError, decode, size_of
from contrastive.recipes.packing.encoding import encode, ending_of
from contrastive.recipes.packing.listing import Listing, Place, Row
from contrastive.recipes.packing.plan import Packing

MAX_BYTES = 1 << 30  # of one member: it is held in memory, and nobody's image
PASSING = ("stalled", "failed", "refused")  # what a network does to a shard that is well
AWAY = (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)  # and to a disk behind it
LATER = "run the command again when it is back: it goes on where it stopped"
TAIL = 1024  # bytes in which a whole image says that it ends
TAG = re.compile(r"<[^<>]+>")
ENDS = {"jpg": b"\xff\xd9", "png": b"IEND"}
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False, default=str).encode


class Made(NamedTuple):
    """A sample for a tar: its members by name, and the ending of its image."""

    members: list[tuple[str, bytes]]
    kind: str


class Picture(NamedTuple):
    """An image that may be packed; its size is None where nobody looked."""

    content: bytes
    kind: str
    size: tuple[int, int] | None
    was: tuple[int, int] | None = None  # its size before it was encoded anew


@dataclass
class Contents:
    """Reads the bytes that rows name."""

    listing: Listing
    storage: Storage
    gone: dict[str, str] = field(default_factory=dict)  # shards that are no more, which were waited for once

    def read(self, place: Place, what: str = "image") -> bytes:
        """Return the bytes at a place.

        Raises:
            BadSampleError: they cannot be had, now or later.
            DataError: a network or a disk is away: what it holds is no worse for that, and the work can go on later.
        """
        if isinstance(place, str):
            return _read_file(place, what)
        if place[1 if len(place) == 3 else 2] > MAX_BYTES:
            raise BadSampleError(f"{what}: too large", f"its {what} has more than {MAX_BYTES:,} bytes")
        if len(place) == 3:
            return self.listing.spilled(place[0], place[1])
        if place[0] in self.gone:
            raise BadSampleError("shard: missing", self.gone[place[0]])
        try:
            return self.storage.read(*place)
        except ReadError as error:
            if is_remote(place[0]) and error.reason in PASSING:
                raise DataError(f"{error}; {LATER}") from error
            if error.reason == "missing":
                self.gone[place[0]] = str(error)
            raise BadSampleError(f"shard: {error.reason}", str(error)) from error

    def close(self) -> None:
        """Close what is open."""
        self.listing.close()
        self.storage.close()


@dataclass(frozen=True)
class Source:
    """What was read of a sample: its rows, the first of which it is named after, and its image and other members."""

    rows: Sequence[Row]
    image: bytes
    members: Mapping[str, bytes] = field(default_factory=dict)


def read(contents: Contents, rows: Sequence[Row]) -> Source:
    """Return what a sample of these rows is made of.

    Raises:
        BadSampleError: bytes cannot be had.
    """
    row = rows[0]
    members = {name: contents.read(place, "member") for name, place in row.members.items()} if row.members else {}
    return Source(rows, contents.read(row.image), members)


def make(source: Source, how: Packing) -> Made:
    """Return the members of a sample: image, txt, json, and those that it brings.

    The json lists the captions also where there is one: a key that only some samples have is none that training could
    read.

    Raises:
        BadSampleError: its image fails the check, or there is no caption.
    """
    row = source.rows[0]
    captions = () if row.members else _captions(source.rows, how)
    try:
        picture = _picture(source.image, row, how)
    except BadImageError as error:
        raise BadSampleError(f"image: {error.reason}", f"its image {error}") from error
    key, given = row.key, source.members
    members = [(f"{key}.{picture.kind}", picture.content)]
    if picture.kind in given:
        rule = f"it has two images of one kind, {picture.kind}; name the members so that each has its own"
        raise BadSampleError("image: two of one kind", rule)
    if captions:
        members.append((f"{key}.txt", captions[0].encode("utf-8", "replace")))
    if not given:
        members.append((f"{key}.json", _json(row, picture, captions)))
    members += [(f"{key}.{name}", content) for name, content in given.items()]
    return Made(members, picture.kind)


def _picture(content: bytes, row: Row, how: Packing) -> Picture:
    """Return the image as it is packed.

    Raises:
        BadImageError: it fails the check, or cannot be encoded anew.
    """
    if not content:
        raise BadImageError("empty", "has no bytes")
    if how.encoding is not None:
        was = size_of(content)
        encoded = encode(content, how.encoding)
        size = (encoded.width, encoded.height)
        return Picture(encoded.content, encoded.ending, size, None if size == was else was)
    if how.check == "none":
        return Picture(content, _ending(content, row), None)
    kind, size = ending_of(content), size_of(content)
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError("too many pixels", f"has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS:,}")
    # An image that does not end is mostly cut short; some cameras write more behind it.
    if how.check == "decode" or (kind in ENDS and ENDS[kind] not in content[-TAIL:]):
        decode(content)
    return Picture(content, kind, size)


def _ending(content: bytes, row: Row) -> str:
    """Return the ending of what nobody asks to be an image."""
    try:
        return ending_of(content)
    except BadImageError:
        ending = os.path.splitext(row.image)[1][1:].lower() if isinstance(row.image, str) else ""
        return ending if ending.isascii() and ending.isalnum() else "image"


def _captions(rows: Sequence[Row], how: Packing) -> tuple[str, ...]:
    """Return the captions of all rows, equal ones once.

    Raises:
        BadSampleError: there is none.
    """
    texts = (text for row in rows for text in row.captions)
    cleaned = (
        " ".join(html.unescape(TAG.sub(" ", text)).split()) if how.clean_html else text.strip() for text in texts
    )
    found = dict.fromkeys(text for text in cleaned if text)
    if not found:
        raise BadSampleError("caption: empty", "its caption is empty")
    return tuple(found)


def _json(row: Row, picture: Picture, captions: Sequence[str]) -> bytes:
    """Return the json member: the source's fields, and ours; what they would hide goes on under `source_NAME`."""
    own: dict[str, Any] = {}
    for names, size in ((("width", "height"), picture.size), (("original_width", "original_height"), picture.was)):
        if size is not None:
            own.update(zip(names, size, strict=True))
    if row.source_key is not None:
        own["key"] = row.source_key
    if captions:
        own["captions"] = list(captions)
    fields = row.fields
    hidden = {f"source_{name}": fields[name] for name, value in own.items() if name in fields and fields[name] != value}
    content = {**hidden, **fields, **own}
    try:
        text = _encode(content)
    except ValueError:  # NaN is no JSON
        text = _encode(_finite(content))
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_file(path: str, what: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a name with a zero in it
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise _unread(path, what, "missing" if is_missing else "unreadable", "opened", error) from error
    try:
        size = os.fstat(file).st_size
        if size > MAX_BYTES:
            raise BadSampleError(f"{what}: too large", f"{path} has {size:,} bytes, more than {MAX_BYTES:,}")
        content = os.read(file, size + 1)
        while len(content) < size and (more := os.read(file, size - len(content))):
            content += more
        return content
    except OSError as error:
        raise _unread(path, what, "unreadable", "read", error) from error
    finally:
        os.close(file)


def _unread(path: str, what: str, reason: str, done: str, error: OSError | ValueError) -> DataError:
    said = f"{path} cannot be {done}: {getattr(error, 'strerror', error)}"
    if getattr(error, "errno", None) in AWAY:
        return DataError(f"{said}; {LATER}")
    return BadSampleError(f"{what}: {reason}", said)
