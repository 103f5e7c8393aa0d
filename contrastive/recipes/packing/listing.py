"""The rows of a source, spilled to disk once: whoever packs reads any of them by number, and none stays in memory.

A folder of: rows (a line of JSON each), contents (bytes that were no file), and int64 arrays: where each row's line
begins, what kind of row it is, the hash of its key, and what decides its split. A listing is whole or not there.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.errors import ConfigError, DataError
from contrastive.files import write_whole
from contrastive.recipes.packing.keys import LONGEST, LONGEST_KEPT, fit, key_hash
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.records import Content, File, Record, Rejected, Span

ROWS, CONTENTS, FACTS = "rows.jsonl", "contents.bin", "listing.json"
RECORD, REJECTED = 0, 1
MOST_SPLITS = 100  # more are no splits but a column of something else
NO_SPLIT = ""
Place = Any  # of bytes, as JSON: a path, [location, offset, size, total], or [offset, size, digest] in CONTENTS
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class Row(NamedTuple):
    """One sample as it was listed; `rows` of the source are in it, and `source_key` is its key where that was unfit."""

    key: str
    image: Place
    captions: list[str]
    where: str
    fields: dict[str, Any]
    members: dict[str, Place]
    rows: int
    source_key: str | None


@dataclass(frozen=True)
class Facts:
    """What is known of a whole listing. `state` says what the source looked like, `splits` the names that it gives."""

    rows: int
    fingerprint: str
    state: str
    splits: list[str]
    seen_rows: int  # of the source; those of one sample that follow each other are one row here
    several: int  # rows with more than one caption


@dataclass(frozen=True)
class Listing:
    """A whole listing. It travels to other processes; what is open stays behind."""

    folder: Path
    facts: Facts

    @classmethod
    def open(cls, folder: Path) -> "Listing | None":
        """Return the listing in a folder; None where there is none, or half of one."""
        try:
            return cls(folder, Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8"))))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "facts": self.facts}

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the arrays: `starts` [rows + 1], `kinds`, `hashes` or `splits` [rows]; mapped, not loaded."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)  # type: ignore[no-any-return]

    def row(self, number: int) -> Row:
        """Return a row that is a record."""
        return Row(*json.loads(self._line(number)))

    def rejected(self, number: int) -> Rejected:
        """Return a row that is none."""
        return Rejected(*json.loads(self._line(number)))

    def spilled(self, offset: int, size: int) -> bytes:
        """Return bytes that the source gave as they are."""
        return os.pread(self._file(CONTENTS), size, offset)

    def _line(self, number: int) -> bytes:
        start, end = self._starts[number : number + 2].tolist()
        return os.pread(self._file(ROWS), end - start, start)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return self.array("starts")

    @cached_property
    def _open(self) -> dict[str, int]:
        return {}

    def _file(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            os.close(self._open.popitem()[1])


def write_listing(
    records: Iterable[Record | Rejected],
    folder: Path,
    how: Packing,
    state: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """Return the listing of all records, written into `folder`, which is emptied first. `progress` gets (rows, 0).

    Raises:
        DataError: there is no row, or a source gives more splits than a person would name.
        ConfigError: no row has the field that `how.split_by` names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / ROWS, "wb") as rows, open(folder / CONTENTS, "wb") as contents:
        writer = _Writer(rows, contents, how)
        for count, record in enumerate(records, 1):
            writer.add(record)
            if progress is not None and not count % 1000:
                progress(count, 0)
        writer.flush()
    facts = writer.finish(state)
    for name, values in writer.arrays.items():
        np.save(folder / f"{name}.npy", np.frombuffer(values, values.typecode))
    write_whole(folder / FACTS, json.dumps(asdict(facts)))
    return Listing(folder, facts)


@dataclass
class _Writer:
    rows: BinaryIO
    contents: BinaryIO
    how: Packing
    arrays: dict[str, "array[int]"] = field(
        default_factory=lambda: {
            "starts": array("q", [0]),
            "kinds": array("b"),
            "hashes": array("Q"),
            "splits": array("Q"),
        }
    )
    names: dict[str, int] = field(default_factory=dict)  # of splits
    fields: dict[str, None] = field(default_factory=dict)  # that rows without the field of `split_by` have
    has_split: bool = False
    seen: int = 0
    spilled: int = 0
    several: int = 0
    _held: Row | None = None  # may still get captions of the rows that follow
    _held_split: int = 0

    def __post_init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def add(self, record: Record | Rejected) -> None:
        self.seen += 1
        if isinstance(record, Rejected):
            self._reject(record)
            return
        if not record.key:
            self._reject(Rejected(record.where, "", "key: empty", f"{record.where}: its key is empty"))
            return
        key = fit(record.key, LONGEST_KEPT if record.members else LONGEST)
        image = self._image(record.image)
        held = self._held
        if held is not None and held.key == key and is_same(held.image, image):
            more = [text for text in record.captions if text not in held.captions]
            self._held = held._replace(captions=[*held.captions, *more], rows=held.rows + 1)
            return
        split = self._split(record, key)
        if isinstance(split, Rejected):
            self._reject(split)
            return
        self.flush()
        members = {name: self._place(content) for name, content in record.members.items()}
        changed = None if key == record.key else record.key
        captions = list(dict.fromkeys(record.captions))
        self._held = Row(key, self._kept(image), captions, record.where, dict(record.fields), members, 1, changed)
        self._held_split = split

    def flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self.several += len(held.captions) > 1
            self._write(held, RECORD, key_hash(held.key), self._held_split)

    def finish(self, state: str) -> Facts:
        if not self.seen:
            raise DataError("the source holds no row; is its name right?")
        if self.how.split_by is not None and not self.has_split and self.fields:
            known = ", ".join(self.fields)
            raise ConfigError(f"--split-by {self.how.split_by}: no row has such a field; they have {known}")
        return Facts(
            len(self.arrays["kinds"]), self.digest.hexdigest(), state, list(self.names), self.seen, self.several
        )

    def _reject(self, rejected: Rejected) -> None:
        self.flush()
        self._write(rejected, REJECTED, 0, 0)

    def _write(self, row: tuple[Any, ...], kind: int, hashed: int, split: int) -> None:
        line = _encode(row).encode() + b"\n"  # ASCII: JSON escapes what is none, and halves of characters too
        self.rows.write(line)
        self.digest.update(line)
        arrays = self.arrays
        arrays["starts"].append(arrays["starts"][-1] + len(line))
        arrays["kinds"].append(kind)
        arrays["hashes"].append(hashed)
        arrays["splits"].append(split)

    def _split(self, record: Record, key: str) -> int | Rejected:
        """Return what decides the split of a record: the number of a name, or a hash."""
        if self.how.own_splits:
            return self._named_split(record)
        name = self.how.split_by
        if name is None:
            return 0
        if record.fields.get(name) is None:
            self.fields.update(dict.fromkeys(list(record.fields)[:20]))
            rule = f"{record.where}: has no field {name!r}, by which samples are split"
            return Rejected(record.where, key, "split: no such field", rule)
        self.has_split = True
        return key_hash(_encode(record.fields[name]))

    def _named_split(self, record: Record) -> int | Rejected:
        name = NO_SPLIT if record.split is None else record.split.strip()
        if name and (name != fit(name) or "/" in name or name.startswith(".")):
            rule = f"{record.where}: its split {record.split!r} cannot be the name of a folder"
            return Rejected(record.where, record.key, "split: no name", rule)
        if name not in self.names and len(self.names) == MOST_SPLITS:
            raise DataError(
                f"{record.where}: more than {MOST_SPLITS} splits; is this the right column for --split source?"
            )
        return self.names.setdefault(name, len(self.names))

    def _image(self, content: Content) -> Place:
        """Return where an image lies; bytes are kept only when their row is."""
        if isinstance(content, bytes):
            return [content, len(content), hashlib.blake2b(content, digest_size=16).hexdigest()]
        return self._place(content)

    def _kept(self, image: Place) -> Place:
        if isinstance(image, str) or len(image) == 4:
            return image
        return [*self._spill(image[0]), image[2]]

    def _place(self, content: Content) -> Place:
        if isinstance(content, File):
            return os.path.abspath(content.path)  # a process elsewhere may have another working folder
        if isinstance(content, Span):
            is_path = "://" not in content.location and not content.location.startswith("pipe:")
            return [os.path.abspath(content.location) if is_path else content.location, *content[1:]]
        return [*self._spill(content), hashlib.blake2b(content, digest_size=16).hexdigest()]

    def _spill(self, content: bytes) -> tuple[int, int]:
        self.contents.write(content)
        self.spilled += len(content)
        return self.spilled - len(content), len(content)


def is_same(one: Place, other: Place) -> bool:
    """Whether two places hold the same bytes, as far as is known without reading them."""
    if isinstance(one, str) or isinstance(other, str) or len(one) != len(other):
        return bool(one == other)
    return bool(one == other if len(one) == 4 else one[1:] == other[1:])
