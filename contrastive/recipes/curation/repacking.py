"""Samples of shards as records to be packed again: their members byte for byte, under keys that are each there once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.data.index import file_name
from contrastive.data.pool import Found, Pool
from contrastive.data.storage import Storage
from contrastive.recipes.curation.names import NAME, Integers, Names, Progress, name_of, over_spans, repeated
from contrastive.recipes.engine import Engine
from contrastive.recipes.forms.shards import pool_records
from contrastive.recipes.packing.keys import LONGEST_KEPT, fit
from contrastive.recipes.records import Record

Prefix: TypeAlias = Literal["auto", "always"]
Spell: TypeAlias = Callable[[Found], str]


def _plain(found: Found) -> str:
    return found.row.key


def _by_source(found: Found) -> str:
    return f"{found.source.name}-{found.row.key}" if found.source.name else found.row.key


def _by_shard(found: Found) -> str:
    folder, slash, key = found.row.key.rpartition("/")
    stem = file_name(found.location).partition(".")[0]
    own = f"{found.source.name}-{stem}" if found.source.name else stem
    return f"{own}-{folder}{slash}{key}"


def _by_row(found: Found) -> str:
    return f"{_by_shard(found)}-{found.row.shard}-{found.row.row}"


SPELLINGS: tuple[Spell, ...] = (_plain, _by_source, _by_shard, _by_row)  # each tells more samples apart


def spelled(found: Found, level: int) -> str:
    """Return the key of a sample as packing writes it; `level` is the place of its spelling."""
    return fit(SPELLINGS[level](found), LONGEST_KEPT)


@dataclass
class Keys:
    """The keys under which samples of a pool are packed again: their own, with more before it where two have the same.

    `levels` [n] says which of SPELLINGS the key of `numbers[i]` is, `changed` [n] whether it was another; two bytes a
    sample are held.
    """

    pool: Pool
    numbers: Integers
    levels: NDArray[np.int8]
    changed: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        pool: Pool,
        numbers: Integers,
        engine: Engine,
        prefix: Prefix = "auto",
        progress: Progress | None = None,
    ) -> "Keys":
        """Return the keys: the name of the source before those that stand in several, else that of the shard.

        With `always` the source's name stands before all of them.
        """
        first = 1 if prefix == "always" else 0
        parts = list(over_spans(engine, partial(_first_names, pool, numbers, first), len(numbers), progress))
        names, changed = (np.concatenate(part) for part in zip(*parts, strict=True))
        levels = np.full(len(numbers), first, np.int8)
        for _ in SPELLINGS[first + 1 :]:
            twice = np.flatnonzero(repeated(names))
            if not len(twice):
                break
            levels[twice] += 1
            changed[twice] = True
            for at in twice.tolist():
                names[at] = name_of(spelled(pool.find(int(numbers[at])), int(levels[at])))
        return cls(pool, numbers, levels, changed)

    def records(self, storage: Storage) -> Iterator[Record]:
        """Yield the samples in their order, as references to their bytes."""
        plain = pool_records(self.pool, storage, map(int, self.numbers))  # a list would be five times the array
        for record, number, level in zip(plain, self.numbers, self.levels, strict=True):
            yield replace(record, key=SPELLINGS[level](self.pool.find(int(number)))) if level else record

    def renamed(self) -> Iterator[tuple[Found, str]]:
        """Yield the samples whose key is another now, and that key."""
        for at in np.flatnonzero(self.changed):
            found = self.pool.find(int(self.numbers[at]))
            key = spelled(found, int(self.levels[at]))
            if key != found.row.key:
                yield found, key


def _first_names(pool: Pool, numbers: Integers, level: int, span: tuple[int, int]) -> tuple[Names, NDArray[np.bool_]]:
    """Return the names of some keys, and whether they are others than the samples had."""
    found = [pool.find(number) for number in numbers[slice(*span)].tolist()]
    keys = [spelled(one, level) for one in found]
    changed = [key != one.row.key for key, one in zip(keys, found, strict=True)]
    return np.array([name_of(key) for key in keys], NAME), np.array(changed, bool)
