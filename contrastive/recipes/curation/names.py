"""Samples by name: 16 bytes each, so that lists of a billion names are sorted, searched and compared in arrays."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Found, Pool
from contrastive.recipes.engine import Engine

T = TypeVar("T")
NAME = np.dtype("S16")
Names: TypeAlias = NDArray[np.bytes_]
Integers: TypeAlias = NDArray[np.int64]
SPAN = 4096  # samples of a task
Progress: TypeAlias = Callable[[int, int], None]


def name_of(*parts: object) -> bytes:
    """Return the name of a key, or of a (shard, row, key).

    128 bits of BLAKE2b: among 10^10 names two are equal by chance with a probability of 10^-19.
    """
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=NAME.itemsize).digest()


def key_name(found: Found) -> bytes:
    """Return the name of a sample's key."""
    return name_of(found.row.key)


def place_name(found: Found) -> bytes:
    """Return the name of a sample's place: the file name of its shard, its row there, and its key."""
    return name_of(found.location.rpartition("/")[2], found.row.row, found.row.key)


def names_of(
    pool: Pool, engine: Engine, name: Callable[[Found], bytes] = key_name, progress: Progress | None = None
) -> Names:
    """Return the names of all samples of a pool, NAME [N]."""
    parts = list(over_spans(engine, partial(_names, pool, name), len(pool), progress))
    return np.concatenate(parts) if parts else np.empty(0, NAME)


def over_spans(
    engine: Engine, function: Callable[[tuple[int, int]], T], total: int, progress: Progress | None = None
) -> Iterator[T]:
    """Yield function((start, end)) of consecutive spans of `total` numbers, in order."""
    spans = [(start, min(start + SPAN, total)) for start in range(0, total, SPAN)]
    for (_, end), result in zip(spans, engine.map(function, spans), strict=True):
        if progress is not None:
            progress(end, total)
        yield result


@dataclass(frozen=True)
class Lookup:
    """Names to be searched: sorted, and which entry of the list each one was."""

    names: Names
    entries: Integers

    @classmethod
    def of(cls, names: Names) -> "Lookup":
        """Return the names of a list, sorted; equal ones stay in the order of the list. 24 bytes a name."""
        entries = np.argsort(names, kind="stable").astype(np.int64)
        return cls(names[entries], entries)

    @property
    def repeats(self) -> Integers:
        """The entries whose name an earlier entry has."""
        found: Integers = self.entries[1:][self.names[1:] == self.names[:-1]]
        return found

    def find(self, names: Names) -> Integers:
        """Return the first entry of each name, int64 [n]; -1 where there is none."""
        if not len(self.names):
            return np.full(len(names), -1, np.int64)
        at: Integers = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        found: Integers = np.where(self.names[at] == names, self.entries[at], -1)
        return found


def repeated(names: Names) -> NDArray[np.bool_]:
    """Return which of the names another one equals, bool [n]."""
    order = np.argsort(names, kind="stable")
    same = names[order][1:] == names[order][:-1]
    found = np.zeros(len(names), bool)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found


def _names(pool: Pool, name: Callable[[Found], bytes], span: tuple[int, int]) -> Names:
    return np.fromiter(_each(pool, name, range(*span)), NAME, span[1] - span[0])


def _each(pool: Pool, name: Callable[[Found], bytes], numbers: Iterable[int]) -> Iterator[bytes]:
    for number in numbers:
        yield name(pool.find(number))
