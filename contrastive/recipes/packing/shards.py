"""One shard of a packing, written by whichever process is free: a tar that appears whole, and what is known of it.

Beside NAME.tar stand NAME.json (its state: written last, so that who finds it finds all), the index of the tar, where
its samples end, and the rows that were rejected.
"""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from contrastive.data import index
from contrastive.data.entries import Entry
from contrastive.data.sidecars import TABLE
from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError
from contrastive.data.tar import Member, scan
from contrastive.errors import DataError
from contrastive.files import replacing, write_whole
from contrastive.recipes.packing.grouping import write_rejection
from contrastive.recipes.packing.listing import Listing, Row
from contrastive.recipes.packing.making import Contents, Made, Source, make, read
from contrastive.recipes.packing.plan import Numbers, Packing
from contrastive.recipes.packing.space import told_when_full
from contrastive.recipes.packing.tars import TarWriter
from contrastive.recipes.records import Rejected

TAR, STATE, ENDS, REJECTIONS, COUNT = ".tar", ".json", ".ends.npy", ".rejected", ".count"
AHEAD = 8  # samples that wait for each thread
SAID_SECONDS = 0.5  # between two notes of how far a shard is


class Job(NamedTuple):
    """A shard to write: `base` is its path without an ending, `samples` the rows that begin its samples, in order.

    The captions of rows `others[i]` belong to `owners[i]`.
    """

    base: str
    samples: Numbers
    owners: Numbers
    others: Numbers


@dataclass(frozen=True)
class State:
    """What is known of a tar: its samples end at byte `end`, before the closing blocks."""

    samples: int
    end: int
    bytes: int
    sha256: str
    entry: dict[str, Any]  # of the manifest
    rejected: dict[str, int] = field(default_factory=dict)  # rows by reason
    kinds: dict[str, int] = field(default_factory=dict)  # images by ending

    @classmethod
    def load(cls, base: str) -> "State | None":
        """Return the state of a shard; None where it is not finished."""
        try:
            return cls(**json.loads(Path(base + STATE).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, base: str) -> None:
        """Write it, as the last thing of a shard."""
        write_whole(Path(base + STATE), json.dumps(asdict(self)))


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shard of a job; `threads` encode images at once."""

    listing: Listing
    how: Packing
    threads: int = 1

    def __call__(self, job: Job) -> State:
        """Return the state of the shard, which is on disk then.

        Raises:
            DataError: the disk is full.
        """
        known = State.load(job.base)  # a task that was run again, by an engine that lost its answer
        if known is not None:
            return known
        os.makedirs(os.path.dirname(job.base), exist_ok=True)
        contents = Contents(self.listing, Storage(self.how.storage))
        with told_when_full(job.base + TAR), _one_thread():
            try:
                return self._write(job, contents)
            finally:
                contents.close()
                with suppress(FileNotFoundError):
                    os.unlink(job.base + COUNT)

    def _write(self, job: Job, contents: Contents) -> State:
        path, ends = Path(job.base + TAR), []
        rejected, kinds = Counter[str](), Counter[str]()
        said = time.monotonic()
        with replacing(path, TAR) as file, replacing(Path(job.base + REJECTIONS)) as rejections:
            tar = TarWriter(file)
            for count, (number, row, made) in enumerate(self._made(job, contents), 1):
                if isinstance(made, Made):
                    tar.add(made.members)
                    ends.append(tar.end)
                    kinds[made.kind] += 1
                else:
                    rule = f"{row.where}: {made.message}"
                    write_rejection(rejections, number, Rejected(row.where, row.key, made.reason, rule), row.rows)
                    rejected[made.reason] += row.rows
                if time.monotonic() - said > SAID_SECONDS:
                    said = time.monotonic()
                    _say(job.base, count)
            size = tar.close()
        with replacing(Path(job.base + ENDS), ".npy") as file:
            np.save(file, np.array(ends, np.int64))
        entry = described(job.base, tar.members)
        state = State(len(ends), tar.end, size, tar.sha256.hexdigest(), entry, dict(rejected), dict(kinds))
        state.save(job.base)
        return state

    def _made(self, job: Job, contents: Contents) -> Iterator[tuple[int, Row, Made | BadSampleError]]:
        """Yield each sample as it goes into the tar, or why it does not, in order."""
        sources = self._sources(job, contents)
        if self.threads == 1:
            for number, row, source in sources:
                yield number, row, self._make(source)
            return
        waiting: deque[tuple[int, Row, Future[Made | BadSampleError]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for number, row, source in sources:
                waiting.append((number, row, pool.submit(self._make, source)))
                if len(waiting) >= AHEAD * self.threads:
                    yield _result(waiting.popleft())
            yield from map(_result, waiting)

    def _make(self, source: Source | BadSampleError) -> Made | BadSampleError:
        if isinstance(source, BadSampleError):
            return source
        try:
            return make(source, self.how)
        except BadSampleError as error:
            return error

    def _sources(self, job: Job, contents: Contents) -> Iterator[tuple[int, Row, Source | BadSampleError]]:
        for number, rows in zip(job.samples.tolist(), _rows(self.listing, job), strict=True):
            first = rows[0]._replace(rows=sum(row.rows for row in rows))
            try:
                yield number, first, read(contents, rows)
            except BadSampleError as error:
                yield number, first, error


def indexed(base: str) -> dict[str, Any]:
    """Return what the manifest says of a tar, read from its headers, and write its index.

    Raises:
        DataError: it is damaged.
    """
    with open(base + TAR, "rb") as file:
        members, damage = scan(file, os.fstat(file.fileno()).st_size)
    if damage:
        raise DataError(f"{base}{TAR}: {damage[0]}; is the disk well?")
    return described(base, members)


def described(base: str, members: Sequence[Member]) -> dict[str, Any]:
    """Return what the manifest says of a tar whose members are known, and write its index."""
    table, notes = index.build(members)
    path = Path(f"{base}{TAR}{TABLE}")
    index.save(path, table)
    tar = Storage().stat(base + TAR)
    patterns = dict(index.patterns(table))
    entry = Entry(tar.size, tar.version, len(table), patterns, index.digest(table), path.stat().st_size, dict(notes))
    return entry.to_json()


def entry_of(state: State) -> Entry:
    """Return what the manifest says of a shard."""
    return Entry.from_json(state.entry)


def noted(bases: Iterable[str]) -> int:
    """Return how many samples are done of shards that are being written."""
    count = 0
    for base in bases:
        with suppress(OSError, ValueError):
            count += int(Path(base + COUNT).read_bytes())
    return count


def _result(waiting: tuple[int, Row, "Future[Made | BadSampleError]"]) -> tuple[int, Row, Made | BadSampleError]:
    number, row, future = waiting
    return number, row, future.result()


def _say(base: str, count: int) -> None:
    with suppress(OSError):
        Path(base + COUNT).write_bytes(b"%d" % count)


def _rows(listing: Listing, job: Job) -> Iterator[list[Row]]:
    """Yield the rows of each sample: the one that begins it, and those that bring it captions."""
    others: dict[int, list[int]] = {}
    for owner, other in zip(job.owners.tolist(), job.others.tolist(), strict=True):
        others.setdefault(owner, []).append(other)
    for number in job.samples.tolist():
        yield [listing.row(one) for one in (number, *others.get(number, ()))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch, which resizes, use one thread: the cores have their processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
