"""The order in which open_clip reads shards, simulated from its rules, to compare an order with.

Shards are shuffled and dealt to the ranks and then to their workers; each worker shuffles its samples through a buffer
(webdataset's), and a rank's batch comes whole from one worker. Rules of open_clip 3.3 (`get_wds_dataset`) and
webdataset 0.2.86 (`_shuffle`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from contrastive.hashing import mix

Integers = NDArray[np.int64]
BUFFER, INITIAL = 5000, 1000  # of samples, in each worker
SHARD_BUFFER, SHARD_INITIAL = 2000, 500
SAMPLES = 2_000_000  # simulated of an epoch; more where that would not fill the buffers well


@dataclass(frozen=True)
class Readers:
    """How open_clip would be launched, and on what: usable samples of each shard, int64 [S]."""

    counts: Integers
    batch_size: int  # of all ranks together
    ranks: int
    workers: int  # of each rank

    @property
    def share(self) -> int:
        """Samples of a rank's batch."""
        return max(1, self.batch_size // self.ranks)

    @property
    def turns(self) -> int:
        """Batches that each worker yields in an epoch."""
        return math.ceil(math.ceil(int(self.counts.sum()) / self.batch_size) / self.workers)

    @property
    def turns_simulated(self) -> int:
        """The batches of each worker that are simulated."""
        samples = max(SAMPLES // (self.ranks * self.workers), 4 * BUFFER, 4 * self.share)
        return min(self.turns, samples // self.share)


@dataclass(frozen=True)
class SimulatedEpoch:
    """The batches of an epoch in order, sample numbers, int64 [B] each."""

    batches: tuple[Integers, ...]
    moves: Integers  # by how many places of its worker's stream each sample came early (above 0) or late
    is_whole: bool  # or else the batches are those of the beginning


def open_clip_epoch(readers: Readers, seed: int, epoch: int) -> SimulatedEpoch | None:
    """Return the batches of an epoch, or None where open_clip refuses, or waits for ever: a worker without a batch."""
    counts, share, turns = readers.counts, readers.share, readers.turns_simulated
    draws = mix("open_clip shards", seed, epoch, np.arange(len(counts))).tolist()
    shards = np.array(list(_through_buffer(len(counts), SHARD_BUFFER, SHARD_INITIAL, draws)), np.int64)
    held = np.empty((turns, readers.workers, readers.ranks, share), np.int64)
    moves = []
    for rank, worker in np.ndindex(readers.ranks, readers.workers):
        stream = _stream(counts, shards[rank :: readers.ranks][worker :: readers.workers], turns * share + BUFFER)
        if len(stream) < share:
            return None
        places = _read(len(stream), turns * share, share, (seed, epoch, rank, worker))
        held[:, worker, rank] = stream[places].reshape(-1, share)
        moves.append(places - np.arange(len(places)) % (len(stream) // share * share))
    batches = tuple(held.reshape(-1, readers.ranks * share))
    return SimulatedEpoch(batches, np.concatenate(moves), turns == readers.turns)


def _stream(counts: Integers, shards: Integers, wanted: int) -> Integers:
    """Return the samples of some shards as they lie, as many as are wanted or somewhat more."""
    starts, used = np.cumsum(counts) - counts, int(np.searchsorted(np.cumsum(counts[shards]), wanted)) + 1
    runs = [np.arange(starts[s], starts[s] + counts[s]) for s in shards[:used]]
    return np.concatenate([np.empty(0, np.int64), *runs])


def _read(length: int, wanted: int, share: int, key: tuple[int, ...]) -> Integers:
    """Return which places of its stream a worker yields: at the end it drops a part of a batch and begins anew."""
    whole, places = length // share * share, list[int]()
    while len(places) < wanted:
        draws = mix("open_clip samples", *key, len(places), np.arange(length)).tolist()
        places += islice(_through_buffer(length, BUFFER, INITIAL, draws), min(whole, wanted - len(places)))
    return np.array(places, np.int64)


def _through_buffer(length: int, size: int, initial: int, draws: Sequence[int]) -> Iterator[int]:
    """Yield 0 .. length - 1 as webdataset's shuffle does: two in and one out until the buffer is full."""
    incoming, left, buffer = iter(range(length)), iter(draws), list[int]()
    for place in incoming:
        buffer.append(place)
        if len(buffer) < size:
            buffer += islice(incoming, 1)
        if len(buffer) >= min(initial, size):
            yield _picked(buffer, next(left))
    while buffer:
        yield _picked(buffer, next(left))


def _picked(buffer: list[int], draw: int) -> int:
    k = draw % len(buffer)
    buffer[k], buffer[-1] = buffer[-1], buffer[k]
    return buffer.pop()
