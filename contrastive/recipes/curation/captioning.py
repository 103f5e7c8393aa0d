"""A shard written again with new captions in it: all other members stay as they are, byte for byte."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from contrastive.data import index
from contrastive.data.index import IMAGES, Table
from contrastive.data.shards import Shard
from contrastive.data.storage import Storage, is_remote
from contrastive.data.tar import Member, scan
from contrastive.errors import ConfigError, DataError
from contrastive.files import replacing, write_whole
from contrastive.recipes.curation.captions import CaptionIndex
from contrastive.recipes.curation.names import Integers
from contrastive.recipes.packing.space import told_when_full
from contrastive.recipes.packing.tars import TarWriter

JSON = "json"
EXTENSION = re.compile(r"[a-z0-9_-]+")  # a dot would be read as a field of the member


@dataclass(frozen=True)
class How:
    """Where new captions go: a field of the json member, or a member of their own. `replace` overwrites what is there.

    Raises:
        ConfigError: no member can have that name.
    """

    field: str
    place: Literal["json", "member"] = "json"
    replace: bool = False

    def __post_init__(self) -> None:
        if not self.field.strip():
            raise ConfigError("--field: is empty; name the new captions, like recaption")
        if self.place == "member" and (not EXTENSION.fullmatch(self.field) or self.field in IMAGES | {JSON}):
            rule = "a member's name has a-z, 0-9, _ and -, and is none of images or json; or use --as json"
            raise ConfigError(f"--field {self.field}: {rule}")

    @property
    def caption_key(self) -> str:
        """What data.caption_key reads them by."""
        return f"{JSON}.{self.field}" if self.place == "json" else self.field


@dataclass
class Captioned:
    """What became of a shard; `odd` are samples that could not take their caption: row, key, reason, message."""

    name: str
    rows: int = 0
    captioned: int = 0
    bytes: int = 0
    sha256: str = ""
    odd: list[tuple[int, str, str, str]] = field(default_factory=list)


class CaptionShard:
    """Called with a shard, writes it with new captions into `folder`, or finds that this has been done.

    Beside NAME stand NAME.json, a `Captioned`, and NAME.npy: the places in the index of the captions that it took.

    Raises:
        DataError: the shard cannot be read or written, holds captions of that name already, or several captions are
            to go into one member.
    """

    def __init__(self, folder: Path, captions: CaptionIndex, how: How, storage: Storage) -> None:
        self.folder, self.captions, self.how, self.storage = folder, captions, how, storage

    def __call__(self, shard: Shard) -> tuple[Captioned, Integers]:
        """Return what became of a shard, and the places of the captions that it took."""
        name = new_name(shard.location)
        done, taken = self.folder / f"{name}.json", self.folder / f"{name}.npy"
        if not done.exists():
            with told_when_full(str(self.folder / name)):
                found, places = self._write(shard.location, name)
                with replacing(taken, ".npy") as file:
                    np.save(file, np.array(places, np.int64), allow_pickle=False)
                write_whole(done, json.dumps(asdict(found)))
        return Captioned(**json.loads(done.read_text())), np.load(taken, allow_pickle=False)

    def _write(self, location: str, name: str) -> tuple[Captioned, list[int]]:
        with self._opened(location) as source, replacing(self.folder / name, ".tar") as target:
            source.seek(0, os.SEEK_END)
            members, _ = scan(source, source.tell())
            tar = TarWriter(cast(BinaryIO, target))
            writing = _Writing(self.how, self.captions, location, source, tar, Captioned(name))
            writing.run(members, index.build(members)[0])
            writing.found.bytes = tar.close()
            writing.found.sha256 = tar.sha256.hexdigest()
        return writing.found, writing.taken

    @contextmanager
    def _opened(self, location: str) -> Iterator[BinaryIO]:
        """Open a shard; what lies behind a network is copied first, or it would be fetched once more to be read."""
        with self.storage.open(location) as source:
            if not is_remote(location):
                yield source
                return
            with tempfile.TemporaryFile(dir=self.folder) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                yield copy


def new_name(location: str) -> str:
    """Return the file name of a shard that is written again: without compression."""
    name = index.file_name(location)
    stem = re.sub(r"(\.tar)?(\.gz|\.tgz)?$", "", name)
    return f"{stem}.tar"


def with_field(content: bytes, name: str, value: Any, replace: bool) -> bytes:
    """Return a JSON object with one more field, its other bytes as they are.

    Raises:
        ValueError: it is no JSON object.
        KeyError: it has that field, which is not to be replaced.
    """
    text = content.decode()
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    if name in found:
        if not replace:
            raise KeyError(name)
        return json.dumps({**found, name: value}, ensure_ascii=False).encode()
    before = text.rstrip()[:-1].rstrip()
    comma = ", " if found else ""
    return f"{before}{comma}{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}}}".encode()


@dataclass
class _Writing:
    how: How
    captions: CaptionIndex
    location: str
    source: BinaryIO
    tar: TarWriter
    found: Captioned
    taken: list[int] = field(default_factory=list)

    def run(self, members: Sequence[Member], table: Table) -> None:
        """Write all members in their order; a new one comes behind the last of its sample."""
        self.found.rows = len(table)
        places = _places(table)
        last = {places[one.offset][0]: one.offset for one in members if one.offset in places}
        new = {row: found for row in last if (found := self._new(table, row))}
        target = JSON if self.how.place == "json" else self.how.field
        for member in members:
            row, extension = places.get(member.offset, (-1, ""))
            content = self._read(member)
            if row in new and extension == target:
                content = self._changed(content, row, table, new)
            self.tar.add([(member.name, content)])
            if row in new and member.offset == last[row] and not _has(table, row, target):
                stem = member.name[: len(member.name) - len(extension) - 1]
                self.tar.add([(f"{stem}.{target}", self._changed(None, row, table, new))])

    def _new(self, table: Table, row: int) -> list[tuple[int, str]]:
        found = self.captions.find(index.key_of(table, row))
        if len(found) > 1 and self.how.place == "member":
            key = index.key_of(table, row)
            raise DataError(f"--as member: {key!r} has {len(found)} captions, a member holds one; use --as json")
        return found

    def _changed(
        self, content: bytes | None, row: int, table: Table, new: Mapping[int, list[tuple[int, str]]]
    ) -> bytes:
        """Return the member that holds a row's new captions; `content` is what it was, if it was."""
        key, texts = index.key_of(table, row), list(dict.fromkeys(text for _, text in new[row]))
        value = texts[0] if len(texts) == 1 else texts
        self.taken += [place for place, _ in new[row]]
        try:
            if self.how.place == "json":
                changed = with_field(content or b"{}", self.how.field, value, self.how.replace)
            elif content and not self.how.replace:
                raise KeyError(self.how.field)
            else:
                changed = texts[0].encode()
        except (UnicodeDecodeError, ValueError, RecursionError):
            said = f"{self.location}:{key}: its json member is no JSON object; it stays without the new caption"
            self.found.odd.append((row, key, "json: damaged", said))
            return content or b""
        except KeyError:
            rule = "choose another --field, or overwrite it with --replace"
            raise DataError(f"{self.location}:{key}: has {self.how.caption_key} already; {rule}") from None
        self.found.captioned += 1
        return changed

    def _read(self, member: Member) -> bytes:
        self.source.seek(member.offset)
        content = self.source.read(member.size)
        if len(content) != member.size:
            raise DataError(f"{self.location}: is cut short inside {member.name}; was it changed meanwhile?")
        return content


def _places(table: Table) -> dict[int, tuple[int, str]]:
    """Return which row and extension the bytes at an offset are."""
    found = {}
    for name in (table.dtype.names or ())[1:]:
        for row, (offset, size) in enumerate(table[name].tolist()):
            if size >= 0:
                found[offset] = (row, name)
    return found


def _has(table: Table, row: int, extension: str) -> bool:
    return extension in (table.dtype.names or ()) and bool(table[extension][row][1] >= 0)
