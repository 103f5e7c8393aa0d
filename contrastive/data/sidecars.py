"""What is known of the shards of one directory, kept beside them: manifest.json, sizes.json and a table for each.

A directory that cannot be written, holds a manifest.json of somebody else or lies behind a network has its sidecars in
a cache folder. Several processes that find no sidecars build them once: the first one builds, the others wait.
"""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from contrastive.data import index
from contrastive.data.entries import MANIFEST, Entry, read_entries, write_entries
from contrastive.data.index import file_name
from contrastive.data.scanning import THREADS, read_shards
from contrastive.data.storage import Stat, Storage, cache_home, is_remote
from contrastive.data.tar import Damage
from contrastive.errors import DataError
from contrastive.files import write_whole

log = logging.getLogger("contrastive")
SIZES, TABLE = "sizes.json", ".idx.npy"
SAVE_SECONDS = 60.0  # what was read so far survives a kill
Progress = Callable[[int, int], None]
Stats = Mapping[str, Stat | None]  # by name; None of a shard that cannot be asked


@dataclass(frozen=True)
class Reading:
    """How shards are read that are not known: all of them with `refresh`, by so many `processes`.

    With `salvage` a shard that cannot be read has what is known from before, or no samples. With `forget` quarantined
    rows of shards that are read again count as samples again.
    """

    processes: int | None = None
    progress: Progress | None = None
    refresh: bool = False
    salvage: bool = False
    forget: bool = False


class Sidecars:
    """The sidecars of the shards in one directory, `locations` of them; `home` is the folder where they are."""

    def __init__(
        self, directory: str, locations: Sequence[str], storage: Storage, reading: Reading = Reading()
    ) -> None:
        self.directory, self.storage, self.reading = directory, storage, reading
        self.places = {file_name(location): location for location in locations}
        self.is_remote = is_remote(locations[0])
        name = directory if self.is_remote else os.path.abspath(directory)
        self.cache = cache_home() / "index" / hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
        self.home = self.cache

    def table(self, name: str) -> Path:
        """Return where the table of a shard lies."""
        return self.home / (name + TABLE)

    def entries(self, to_write: bool = False) -> dict[str, Entry]:
        """Return what is known of every shard by name, read again where it changed.

        `to_write` asks for a home that can be written.

        Raises:
            DataError: a shard cannot be read, or no home can be written.
        """
        stats = self._stats()
        homes = [self.cache] if self.is_remote else [Path(self.directory), self.cache]
        held = {home: read_entries(home) for home in homes}
        fresh = [home for home, known in held.items() if known and not _stale(home, known, stats)]
        fresh = [home for home in fresh if not to_write or os.access(home, os.W_OK)]
        if fresh and not self.reading.refresh:
            self.home = max(fresh, key=lambda home: (home / MANIFEST).stat().st_mtime_ns)
            known = held[self.home] or {}
            return {name: known[name] for name in self.places}
        said = "cannot be written"
        for home in homes:
            if held[home] is None or not (home == self.cache or os.access(home, os.W_OK)):
                continue
            try:
                self.home = home
                return self._build(stats)
            except OSError as error:
                said = str(error)
                log.info("%s: its index cannot be kept in %s (%s)", self.directory, home, error)
        raise DataError(f"{self.cache}: {said}; name a folder that can be written with CONTRASTIVE_CACHE")

    def skip(self, entries: Mapping[str, Entry], rows: Mapping[str, Iterable[int]]) -> dict[str, Entry]:
        """Return the entries with more quarantined rows, and keep them so."""
        found = {name: self._skipping(name, entry, rows.get(name, ())) for name, entry in entries.items()}
        if found != entries:
            with self._locked():
                write_entries(self.home, {**(read_entries(self.home) or {}), **found})
        return found

    def write_sizes(self, sizes: Mapping[str, int]) -> None:
        """Write sizes.json, usable samples by shard, which open_clip reads; where it says so already it stays."""
        if self.home == self.cache:
            return  # nobody would look for it there
        path = self.home / SIZES
        known: Any = {}
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict) or {**known, **sizes} == known:
            return
        with suppress(OSError):
            write_whole(path, json.dumps(dict(sorted({**known, **sizes}.items())), indent=1, ensure_ascii=False) + "\n")

    def _stats(self) -> Stats:
        ask = partial(_stat, self.storage, self.reading.salvage)
        if self.is_remote and len(self.places) > 1:
            with ThreadPoolExecutor(THREADS) as executor:
                return dict(zip(self.places, executor.map(ask, self.places.values()), strict=True))
        return {name: ask(location) for name, location in self.places.items()}

    def _build(self, stats: Stats) -> dict[str, Entry]:
        """Read what is stale, and keep it; a shard that stays unknown has no samples."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._locked():
            known = read_entries(self.home) or {}  # somebody else may have done it in the meantime
            unknown = _stale(self.home, known, stats)
            wanted = stats if self.reading.refresh else unknown
            todo = [name for name in wanted if stats[name] is not None]
            lost = {name for name in unknown if stats[name] is None}
            if self.reading.refresh:
                known = self._without_gone(known)
            try:
                lost |= self._read(todo, stats, known)
            finally:
                if todo:
                    write_entries(self.home, known)
        none = Entry(-1, "", 0, {}, "", damage=(Damage(0, "cannot be opened"),))
        return {name: none if name in lost else known[name] for name in self.places}

    def _read(self, names: Sequence[str], stats: Stats, known: dict[str, Entry]) -> set[str]:
        """Read shards into `known`; return those that cannot be read, where these are salvaged."""
        size = sum(stat.size for name in names if (stat := stats[name]) is not None)
        tasks = [(self.places[name], self.table(name)) for name in names]
        notes, saved, lost = Counter[str](), time.monotonic(), set()
        results = read_shards(self.storage, tasks, size, self.reading.processes)
        for done, (name, result) in enumerate(zip(names, results, strict=True), 1):
            if isinstance(result, Entry):
                notes.update(result.notes)
                known[name] = self._with_skips(name, result, known.get(name))
            elif self.reading.salvage:
                log.warning("%s", result)
                lost.add(name)
            else:
                raise result
            if self.reading.progress is not None:
                self.reading.progress(done, len(names))
            if time.monotonic() - saved > SAVE_SECONDS:
                write_entries(self.home, known)
                saved = time.monotonic()
        if notes:
            log.warning("%s: %s", self.directory, ", ".join(f"{count:,} {note}" for note, count in notes.items()))
        return lost

    def _without_gone(self, known: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return the entries whose tars are still there; of other shards behind a network nobody knows."""
        others = [name for name in known if name not in self.places and not self.is_remote]
        gone = {name for name in others if not Path(self.directory, name).exists()}
        for name in gone:
            self.table(name).unlink(missing_ok=True)
        return {name: entry for name, entry in known.items() if name not in gone}

    def _with_skips(self, name: str, entry: Entry, before: Entry | None) -> Entry:
        """Return an entry with the quarantined rows from before, if the shard is the same in all that counts."""
        if before is None or not before.skip or self.reading.forget:
            return entry
        if before.digest != entry.digest:
            log.warning("%s changed; its %d quarantined rows count again", self.places[name], len(before.skip))
            return entry
        return self._skipping(name, entry, before.skip)

    def _skipping(self, name: str, entry: Entry, rows: Iterable[int]) -> Entry:
        skip = tuple(sorted({*entry.skip, *rows}))
        if skip == entry.skip:
            return entry
        return replace(entry, skip=skip, patterns=dict(index.patterns(index.load(self.table(name)), skip)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time write; the lock lies in the cache, since locks on network disks are a gamble."""
        lock = FileLock(f"{self.cache}.lock")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process indexes %s; waiting for it", self.directory)
            lock.acquire()
        except (OSError, NotImplementedError) as error:  # files appear whole, so work is only done twice
            log.info("%s: indexed without a lock (%s)", self.directory, error)
        try:
            yield
        finally:
            lock.release()


def is_sidecar(path: str) -> bool:
    """Whether a file is one that stands here beside shards, as its name tells."""
    name = path.rpartition("/")[2]
    return name in (MANIFEST, SIZES) or name.endswith(TABLE)


def _stale(home: Path, known: Mapping[str, Entry], stats: Stats) -> list[str]:
    return [name for name, stat in stats.items() if not _is_fresh(home, name, known.get(name), stat)]


def _is_fresh(home: Path, name: str, entry: Entry | None, stat: Stat | None) -> bool:
    if entry is None:
        return False
    try:
        is_whole = os.stat(f"{home}/{name}{TABLE}").st_size == entry.table
    except OSError:
        return False
    return is_whole and (stat is None or entry.is_of(stat))


def _stat(storage: Storage, salvage: bool, location: str) -> Stat | None:
    try:
        return storage.stat(location)
    except DataError as error:
        if not salvage:
            raise
        log.warning("%s", error)
        return None
