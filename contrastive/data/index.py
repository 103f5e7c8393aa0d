"""The samples of one tar as a table: which members each one has, and where their bytes lie.

Row i is a sample, in the order in which the tar first names it, usable or not: `__key__`, and for every extension an
offset and a size, -1 where the sample has none. The table is kept beside the tar as a plain .npy file.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.data.tar import Member, key_and_extension
from contrastive.files import replacing

KEY = "__key__"
MAX_EXTENSIONS = 64  # a table has a column for each
MAX_HEADER = 1 << 18  # bytes of a .npy header; numpy itself takes 10,000, which 64 long extensions exceed
EMPTY = "!"  # before an extension in a pattern: the member has no bytes
IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif", "ppm"))
TEXTS = frozenset(("txt", "text", "json", "caption", "cls", "cap"))
Table: TypeAlias = NDArray[np.void]
Pattern: TypeAlias = tuple[str, ...]  # the extensions of a sample, sorted


@dataclass(frozen=True)
class Selection:
    """The members that make a sample: an image (first extension present wins), a caption, maybe a label."""

    image: tuple[str, ...]
    captions: tuple[str, ...]
    label: str | None = None

    def lacks(self, pattern: Pattern) -> str | None:
        """Return why a sample of these extensions is not usable, None when it is."""
        for name, wanted in (("image", self.image), ("caption", self.captions)):
            if not any(extension in pattern for extension in wanted):
                is_empty = any(EMPTY + extension in pattern for extension in wanted)
                return "zero bytes" if is_empty else f"no {name}"
        return None

    def usable(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows of a table are usable, [rows]."""
        return _any_present(table, self.image) & _any_present(table, self.captions)


def build(members: Sequence[Member]) -> tuple[Table, Counter[str]]:
    """Return the table of a tar's members, and notes: how many keys or members stand twice, and the like."""
    notes: Counter[str] = Counter()
    samples = _group(members, notes)
    seen = Counter(extension for _, sample in samples for extension in sample)
    columns = sorted(extension for extension, _ in seen.most_common(MAX_EXTENSIONS))
    notes["rare extensions left out"] += len(seen) - len(columns)
    width = max((len(key) for key, _ in samples), default=1)
    kinds: list[Any] = [(KEY, f"S{max(width, 1)}"), *((extension, np.int64, (2,)) for extension in columns)]
    table = np.full(len(samples), -1, dtype=kinds)
    table[KEY] = [key for key, _ in samples]
    known = set(columns)
    for row, (_, sample) in enumerate(samples):
        for extension, place in sample.items():
            if extension in known:
                table[extension][row] = place
    return table, +notes


def patterns(table: Table, skip: Sequence[int] = ()) -> Counter[Pattern]:
    """Return how many rows have which extensions, rows in `skip` left out."""
    names = (table.dtype.names or ())[1:]
    kept = np.delete(table, list(skip)) if len(skip) else table
    if not names or not len(kept):
        return Counter({(): len(kept)} if len(kept) else {})
    signs = np.stack([np.sign(kept[name][:, 1]) for name in names], axis=1)  # [rows, columns]: -1 none, 0 empty, 1
    kinds, counts = np.unique(signs, axis=0, return_counts=True)
    found: Counter[Pattern] = Counter()
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        present = [(name, sign) for name, sign in zip(names, kind, strict=True) if sign >= 0]
        found[tuple(name if sign else EMPTY + name for name, sign in present)] += count
    return found


def digest(table: Table) -> str:
    """Return a hash of all that a table says."""
    content = hashlib.blake2b(repr(table.dtype.descr).encode(), digest_size=16)
    content.update(table.tobytes())
    return content.hexdigest()


def members_of(table: Table, row: int) -> dict[str, tuple[int, int]]:
    """Return the members of a row that have bytes: extension to offset and size."""
    record = table[row]
    found = {}
    for name in table.dtype.names[1:]:  # type: ignore[index]
        offset, size = record[name].tolist()
        if size > 0:
            found[name] = (offset, size)
    return found


def key_of(table: Table, row: int) -> str:
    """Return the key of a row; bytes that were no UTF-8 in the tar are escaped in it."""
    key: bytes = table[KEY][row]
    return key.decode()


def save(path: Path, table: Table) -> None:
    """Write a table, whole or not at all."""
    with replacing(path, ".npy") as file:
        # Version 3: the earlier ones hold no extension outside Latin-1.
        np.lib.format.write_array(file, table, version=(3, 0), allow_pickle=False)


def load(path: Path) -> Table:
    """Return a table, mapped into memory as a plain array (every access to a `memmap` runs Python code).

    Raises:
        ValueError, OSError: it is none, or cut short.
    """
    table = _mapped(path)
    if table.ndim != 1 or not table.dtype.names or table.dtype.names[0] != KEY:
        raise ValueError(f"{path}: is no index")
    return table.view(np.ndarray)


def _mapped(path: Path, tries: int = 3) -> Table:
    try:
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=MAX_HEADER)
    except (
        SystemError
    ):  # Python before 3.11.8 and 3.12.1, now and then: https://github.com/python/cpython/issues/106905
        if tries > 1:
            return _mapped(path, tries - 1)
        raise
    return table


def _any_present(table: Table, extensions: Sequence[str]) -> NDArray[np.bool_]:
    found = np.zeros(len(table), bool)
    for extension in extensions:
        if extension in (table.dtype.names or ()):
            found |= table[extension][:, 1] > 0
    return found


def _group(members: Sequence[Member], notes: Counter[str]) -> list[tuple[bytes, dict[str, tuple[int, int]]]]:
    """Return the samples in the order of their first members; members of a key need not be adjacent."""
    samples: list[tuple[bytes, dict[str, tuple[int, int]]]] = []
    latest: dict[str, dict[str, tuple[int, int]]] = {}
    for member, (key, extension) in zip(members, _names(members), strict=True):
        if not extension or extension == KEY or not key.rpartition("/")[2]:
            notes["members without key or extension"] += 1
            continue
        sample = latest.get(key)
        if sample is not None and extension in sample:
            if len(sample) == 1:
                notes["members that stand twice"] += 1
                continue
            notes["keys that stand twice"] += 1
            sample = None
        if sample is None:
            sample = latest[key] = {}
            samples.append((key.encode(), sample))
        sample[extension] = (member.offset, member.size)
    return samples


def _names(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Return every member's key and extension; keys with dots are told from compound extensions.

    `00.005.jpg` and `00.005.txt` are a sample of key `00.005`, since they make one on their own and `00` does not.
    `a.seg.png` is the member `seg.png` of `a`, and so is `a.seg.json` beside `a.jpg` and `a.txt`.
    """
    names = [key_and_extension(_printable(member.name)) for member in members]
    if not any("." in extension for _, extension in names):
        return names
    plain: dict[str, set[str]] = {}
    dotted: dict[tuple[str, str], set[str]] = {}
    for member, (key, _) in zip(members, names, strict=True):
        stem, _, last = _printable(member.name).rpartition(".")
        (plain.setdefault(key, set()) if stem == key else dotted.setdefault((key, stem), set())).add(last.lower())
    whole = {
        stem for (key, stem), kinds in dotted.items() if _is_sample(kinds) and not _is_sample(plain.get(key, set()))
    }
    found = []
    for member, (key, extension) in zip(members, names, strict=True):
        stem, _, last = _printable(member.name).rpartition(".")
        found.append((stem, last.lower()) if stem in whole else (key, extension))
    return found


def _is_sample(kinds: set[str]) -> bool:
    return bool(kinds & IMAGES) and bool(kinds & TEXTS)


def _printable(name: str) -> str:
    """Return a name without surrogates, which stand for bytes that are no UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_name(location: str) -> str:
    """Return the name under which a shard stands in its manifest: its file's, or a hash where that is no file name."""
    name = location.rpartition("/")[2]
    if re.fullmatch(r"[\w.\-+@= ]{1,150}", name) and not location.startswith("pipe:"):
        return name
    return hashlib.blake2b(location.encode(), digest_size=12).hexdigest()
