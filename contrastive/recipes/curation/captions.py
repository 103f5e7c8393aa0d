"""New captions by key, from whatever wrote them: rows of a file become an index on disk that is searched by key."""

import json
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.errors import ConfigError
from contrastive.files import replacing, write_whole
from contrastive.recipes.curation.names import Integers
from contrastive.recipes.curation.names import name_of as hashed
from contrastive.recipes.forms.cells import BadRowError, captions_of, name_of
from contrastive.recipes.forms.rows import rows_of
from contrastive.recipes.records import Rejected
from contrastive.registry import suggest

ROW = struct.Struct("<III")  # bytes of what names the row, of the key, of the caption
HASHES, OFFSETS, TEXTS, DONE, REJECTED = "hashes.npy", "offsets.npy", "texts.bin", "captions.json", "rejected.jsonl"
OFTEN = 16_384  # captions, after which progress is told


class Caption(NamedTuple):
    """A new caption; `where` is how messages name its row."""

    where: str
    key: str
    text: str


def read_captions(path: Path, key: str, caption: str) -> Iterator[Caption | Rejected]:
    """Yield every caption of a table, from its columns `key` and `caption`; a list in a row is several captions.

    Raises:
        DataError: the file cannot be read or is no table.
        ConfigError: it has no such columns.
    """
    table = rows_of(str(path), asked=(key, caption))
    for option, name in (("--key-column", key), ("--caption-column", caption)):
        if name not in table.columns:
            rule = f"it has {', '.join(table.columns) or 'none'}; name it with {option}"
            raise ConfigError(f"{path}: has no column {name!r}{suggest(name, table.columns)}; {rule}")
    for row in table.rows((key, caption)):
        if isinstance(row, Rejected):
            yield row
            continue
        own = ""
        try:
            own = name_of(row.values.get(key), "key")
            for text in captions_of((row.values.get(caption),)):
                yield Caption(row.where, own, text)
        except BadRowError as bad:
            yield bad.at(row.where, own)


class CaptionIndex:
    """Captions on disk, found by key: 16 bytes a caption beside the texts, mapped into memory, not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    @classmethod
    def build(
        cls, folder: Path, rows: Iterable[Caption | Rejected], progress: Callable[[int], None] | None = None
    ) -> "CaptionIndex":
        """Write the captions of a file into a folder, or take those that a killed program left there whole.

        In memory are 32 bytes a caption, until all are written. Rejected rows go into rejected.jsonl.
        """
        if not (folder / DONE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            hashes, offsets = array("Q"), array("q")
            with (folder / TEXTS).open("wb") as texts, (folder / REJECTED).open("w", encoding="utf-8") as rejected:
                counts = _spill(rows, texts, rejected, hashes, offsets, progress)
            _save_sorted(folder, np.frombuffer(hashes, np.uint64), np.frombuffer(offsets, np.int64))
            write_whole(folder / DONE, json.dumps(counts) + "\n")
        return cls(folder)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many captions there are under "captions", and the rejected rows by reason."""
        found: Mapping[str, int] = json.loads((self.folder / DONE).read_text())
        return found

    def __len__(self) -> int:
        return self.counts["captions"]

    def find(self, key: str) -> list[tuple[int, str]]:
        """Return the captions of a key in the order of the file, each with its place in the index."""
        wanted = _hash(key)
        start = int(np.searchsorted(self._hashes, wanted, "left"))
        found = []
        for at in range(start, len(self._hashes)):
            if self._hashes[at] != wanted:
                break
            one = self.at(at)
            if one.key == key:  # 64 bits are not enough to believe without a look
                found.append((at, one.text))
        return found

    def in_file_order(self, places: Integers) -> Integers:
        """Return places of the index in the order in which the file has them."""
        return places[np.argsort(self._offsets[places])]

    def at(self, place: int) -> Caption:
        """Return the caption at a place of the index."""
        self._texts.seek(int(self._offsets[place]))
        where, key, text = ROW.unpack(self._texts.read(ROW.size))
        content = self._texts.read(where + key + text)
        return Caption(content[:where].decode(), content[where : where + key].decode(), content[where + key :].decode())

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        return _mapped(self.folder / HASHES)

    @cached_property
    def _offsets(self) -> Integers:
        return _mapped(self.folder / OFFSETS)

    @cached_property
    def _texts(self) -> IO[bytes]:
        return (self.folder / TEXTS).open("rb")


def rejected_line(one: Rejected) -> str:
    """Return a line of rejected.jsonl."""
    return json.dumps(one._asdict(), ensure_ascii=False) + "\n"


def _spill(
    rows: Iterable[Caption | Rejected],
    texts: IO[bytes],
    rejected: IO[str],
    hashes: "array[int]",
    offsets: "array[int]",
    progress: Callable[[int], None] | None,
) -> dict[str, int]:
    counts, place = {"captions": 0}, 0
    for one in rows:
        if isinstance(one, Rejected):
            counts[one.reason] = counts.get(one.reason, 0) + 1
            rejected.write(rejected_line(one))
            continue
        content = [part.encode(errors="replace") for part in one]
        texts.write(ROW.pack(*map(len, content)) + b"".join(content))
        hashes.append(_hash(one.key))
        offsets.append(place)
        place += ROW.size + sum(map(len, content))
        counts["captions"] += 1
        if progress is not None and counts["captions"] % OFTEN == 0:
            progress(counts["captions"])
    return counts


def _save_sorted(folder: Path, hashes: NDArray[np.uint64], offsets: Integers) -> None:
    order = np.argsort(hashes, kind="stable")  # captions of one key stay in the order of the file
    for name, values in ((HASHES, hashes), (OFFSETS, offsets)):
        with replacing(folder / name, ".npy") as file:
            np.save(file, values[order], allow_pickle=False)


def _mapped(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found.view(np.ndarray)


def _hash(key: str) -> int:
    return int.from_bytes(hashed(key)[:8], "little")
