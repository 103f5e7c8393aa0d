"""Shards as one list of usable samples: sizes, fingerprint, and where each sample's bytes lie. O(shards) in memory."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.data import index
from contrastive.data.entries import Entry
from contrastive.data.index import Pattern, Selection, Table
from contrastive.data.sidecars import Reading, Sidecars
from contrastive.data.skips import read_quarantine, rows_of
from contrastive.data.storage import Storage
from contrastive.data.tar import Damage
from contrastive.errors import DataError

log = logging.getLogger("contrastive")
TABLES = 128  # that stay open: a descriptor each, and the pages that were touched
Integers = NDArray[np.int64]


class Row(NamedTuple):
    """One sample: its shard, its row in the shard's table, its key, and its members with offset and size."""

    shard: int
    row: int
    key: str
    members: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: its size, -1 when nobody knows it, how many samples stand in it, and how many of them are usable."""

    location: str
    bytes: int
    rows: int
    samples: int
    digest: str
    table: str = ""  # the path of its table
    skipped: tuple[int, ...] = ()  # quarantined rows
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Shards in their order; usable samples are numbered through from 0."""

    shards: tuple[Shard, ...]
    selection: Selection
    unusable: Mapping[str, int] = field(default_factory=dict)  # reason to samples
    notes: Mapping[str, int] = field(default_factory=dict)  # what is odd, though it harms nothing: how often

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}  # maps do not travel

    @cached_property
    def counts(self) -> Integers:
        """Usable samples of each shard, int64 [S]."""
        return np.array([shard.samples for shard in self.shards], np.int64)

    @cached_property
    def starts(self) -> Integers:
        """The number of each shard's first sample and, last, of all samples, int64 [S + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of keys, members and their order; paths and times are no part of it, nor are the members' bytes."""
        content = hashlib.blake2b(repr(self.selection).encode(), digest_size=16)
        for shard in self.shards:
            content.update(repr((shard.samples, shard.digest, shard.skipped)).encode())
        return content.hexdigest()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Return the shards of samples, and which of the shard's usable samples each is, int64 [B]."""
        shard = np.searchsorted(self.starts, numbers, side="right") - 1
        return shard, numbers - self.starts[shard]

    def row(self, number: int) -> Row:
        """Return where sample `number` lies.

        Raises:
            DataError: the shard's table cannot be read.
        """
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        table, usable = self._tables(shard)
        row = number - int(self.starts[shard])
        if usable is not None:
            row = int(usable[row])
        return Row(shard, row, index.key_of(table, row), index.members_of(table, row))

    def rows(self, shard: int) -> Iterator[Row]:
        """Yield every sample of a shard, usable or not."""
        table = self.rows_of(shard)
        for row in range(len(table)):
            yield Row(shard, row, index.key_of(table, row), index.members_of(table, row))

    def rows_of(self, shard: int) -> Table:
        """Return a shard's table: every sample, usable or not; see `contrastive.data.index`."""
        one = self.shards[shard]
        return self._tables(shard)[0] if one.rows else index.build([])[0]

    @cached_property
    def _tables(self) -> "_lru_cache_wrapper[tuple[Table, Integers | None]]":
        return lru_cache(TABLES)(self._open_table)

    def _open_table(self, number: int) -> tuple[Table, Integers | None]:
        """Return a shard's table, and which of its rows are usable; None for all."""
        shard = self.shards[number]
        rule = "run contrastive data index --refresh"
        try:
            table = index.load(Path(shard.table))
        except (OSError, ValueError) as error:
            raise DataError(f"{shard.table}: the index of {shard.location} cannot be read ({error}); {rule}") from error
        if len(table) != shard.rows:
            raise DataError(f"{shard.table}: has {len(table)} rows, not {shard.rows}: the shard was changed; {rule}")
        if shard.samples == shard.rows:
            return table, None
        is_usable = self.selection.usable(table)
        is_usable[list(shard.skipped)] = False
        return table, np.flatnonzero(is_usable)


def open_manifest(
    locations: Sequence[str],
    selection: Selection,
    storage: Storage,
    *,
    on_damage: Literal["fail", "salvage"] = "fail",
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    quarantine: Sequence[Path] = (),
    refresh: bool = False,
    forget_quarantine: bool = False,
) -> Manifest:
    """Return the samples of shards, from their sidecars where these are fresh, else by reading every header once.

    `salvage` takes what is whole of damaged shards. Lines of `quarantine` files are left out from now on; with
    `forget_quarantine` those of earlier files no longer are. `progress`
    is told how many shards of a directory have been read, and of how many.

    Raises:
        DataError: a shard is missing or damaged (unless salvaged), no sample is usable, a usable one lacks the label,
            or a quarantine file is of other shards.
    """
    reading = Reading(processes, progress, refresh or forget_quarantine, on_damage == "salvage", forget_quarantine)
    lines = read_quarantine(quarantine, locations)
    groups: dict[str, list[str]] = {}
    for location in locations:
        groups.setdefault(_directory(location), []).append(location)
    known: dict[str, tuple[Entry, str]] = {}
    judge = _Judge(selection)
    for directory, members in groups.items():
        sidecars = Sidecars(directory, members, storage, reading)
        entries = sidecars.entries(to_write=any(location in lines for location in members))
        tables = {name: str(sidecars.table(name)) for name in entries}
        found = {name: place for name, place in sidecars.places.items() if place in lines}
        skips = {name: rows_of(lines[at], index.load(sidecars.table(name)), at) for name, at in found.items()}
        entries = sidecars.skip(entries, skips) if skips else entries
        if on_damage == "fail":
            _refuse_damage({sidecars.places[name]: entry for name, entry in entries.items()}, len(locations))
        sidecars.write_sizes({name: judge.samples(entry) for name, entry in entries.items()})
        known.update({place: (entries[name], tables[name]) for name, place in sidecars.places.items()})
    shards = tuple(_shard(location, *known[location], judge) for location in locations)
    held = [known[location][0] for location in locations]
    return _checked(Manifest(shards, selection, judge.unusable(held), _sum(entry.notes for entry in held)), held)


class _Judge:
    """Counts usable samples by what they hold; most shards hold the same few patterns."""

    def __init__(self, selection: Selection) -> None:
        self.lacks = lru_cache(1 << 16)(selection.lacks)

    def samples(self, entry: Entry) -> int:
        return sum(count for pattern, count in entry.patterns.items() if self.lacks(pattern) is None)

    def unusable(self, entries: Sequence[Entry]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for entry in entries:
            for pattern, count in entry.patterns.items():
                found[self.lacks(pattern) or ""] += count
            found["quarantined"] += len(entry.skip)
        return {reason: count for reason, count in found.items() if reason and count}


def _directory(location: str) -> str:
    if location.startswith("pipe:"):
        return location
    if "://" in location:
        return location.rpartition("/")[0]
    return os.path.dirname(location) or "."


def _shard(location: str, entry: Entry, table: str, judge: _Judge) -> Shard:
    samples = judge.samples(entry)
    return Shard(location, entry.bytes, entry.rows, samples, entry.digest, table, entry.skip, entry.damage)


def _sum(counts: "Iterator[dict[str, int]]") -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in counts:
        found.update(one)
    return dict(found)


def _checked(manifest: Manifest, entries: Sequence[Entry]) -> Manifest:
    damaged = [shard for shard in manifest.shards if shard.damage]
    if not len(manifest):
        _refuse_empty(entries, manifest)
    if damaged:
        said = f"{damaged[0].location} {damaged[0].damage[0]}"
        log.warning("%d of %d shards are damaged (%s); what is whole is used", len(damaged), len(entries), said)
    if manifest.selection.label is not None:
        _require_labels(manifest, entries)
    return manifest


def _refuse_damage(entries: Mapping[str, Entry], count: int) -> None:
    damaged = {location: entry.damage[0] for location, entry in entries.items() if entry.damage}
    if not damaged:
        return
    location, damage = next(iter(damaged.items()))
    more = f" ({len(damaged)} of {count} shards are damaged)" if count > 1 else ""
    rule = "write or copy it again, or use what is whole with data.damaged_shards=substitute"
    raise DataError(f"{location}: {damage}{more}; {rule}")


def _refuse_empty(entries: Sequence[Entry], manifest: Manifest) -> None:
    seen = _sum(
        {extension.removeprefix(index.EMPTY): count for extension in pattern}
        for entry in entries
        for pattern, count in entry.patterns.items()
    )
    members = ", ".join(sorted(seen, key=lambda name: -seen[name])[:12]) or "nothing"
    selection = manifest.selection
    for setting, wanted in (("data.image_key", selection.image), ("data.caption_key", selection.captions)):
        if seen and not any(name in seen for name in wanted):
            raise DataError(f"{setting}: no sample has a member {' or '.join(wanted)}; the shards hold {members}")
    if not seen:
        raise DataError(f"data.train: the shards hold no samples ({_reasons(manifest)}); run contrastive data verify")
    rule = "do their file names share a key?"
    raise DataError(f"data.train: no sample has both an image and a caption ({_reasons(manifest)}); {rule}")


def _reasons(manifest: Manifest) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in manifest.unusable.items()) or "they are empty"


def _require_labels(manifest: Manifest, entries: Sequence[Entry]) -> None:
    """Refuse samples without a label: left out in silence, one would train as if it were like no other."""
    selection = manifest.selection
    label = str(selection.label)

    def is_bare(pattern: Pattern) -> bool:
        return selection.lacks(pattern) is None and label not in pattern

    for number, entry in enumerate(entries):
        if not any(map(is_bare, entry.patterns)):
            continue
        for one in range(int(manifest.starts[number]), int(manifest.starts[number + 1])):
            row = manifest.row(one)
            if label not in row.members:
                held = ", ".join(row.members)
                rule = f"data.label_key asks for a member {label!r}, and this one has {held}"
                raise DataError(f"{manifest.shards[number].location}:{row.key}: {rule}")
