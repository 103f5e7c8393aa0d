"""How well an order mixes: simulated batches beside independent draws, and beside the order of open_clip.

Neighbours in a shard often come from one page or one class. Where they meet in a batch more often than by chance, a
contrastive loss pushes apart what belongs together, and one batch differs from the next.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastive.data.order import Order, Source
from contrastive.errors import ConfigError
from contrastive.hashing import mix
from contrastive.recipes.open_clip_order import BUFFER, Readers, open_clip_epoch

Integers = NDArray[np.int64]
BATCHES, SAMPLES = 200, 2_000_000  # looked at in an epoch, at most
CLASSES = 100  # of the pretended data set whose shards are sorted by class
MATCHES = 100  # samples seen in both epochs, below which a correlation says nothing


@dataclass(frozen=True)
class Mixing:
    """The figures of one order; nan where the batches looked at cannot tell."""

    shards_per_batch: float
    next_odds: float  # that neighbours of a shard meet in a batch, against a random permutation
    tenth_odds: float  # the same for samples ten apart
    class_chi2: float  # of a batch's classes if the shards were sorted by class, per degree of freedom
    epoch_correlation: float  # between when a sample comes in one epoch and in the next
    mean_displacement: float  # samples, between when a sequential reader meets a sample and when it is due
    largest_displacement: int
    buffered_samples: int  # what readers that only read forward must have room for; on average half of it is held
    buffered_bytes: float | None = None


@dataclass(frozen=True)
class MixingReport:
    """An order beside independent draws and open_clip's order, and what to change, a sentence each."""

    ours: Mixing
    independent: Mixing
    open_clip: Mixing | None  # None where open_clip does not run: a reader without a batch
    batches: int  # of each epoch that were looked at
    verdict: tuple[str, ...]


@dataclass(frozen=True)
class _Meetings:
    pairs: int
    found: int
    expected: float

    @property
    def odds(self) -> float:
        return self.found / self.expected if self.expected else math.nan

    @property
    def share(self) -> float:
        return self.found / max(1, self.pairs)

    @property
    def is_excess(self) -> bool:
        """Whether twice as many meet as by chance, beyond the noise, and enough to matter to a loss."""
        return self.found > 2 * self.expected + 5 * math.sqrt(self.expected) and self.share > 0.01


@dataclass(frozen=True)
class _Seen:
    shards_per_batch: float
    next: _Meetings
    tenth: _Meetings
    class_chi2: float


def mixing_report(
    source: Source,
    global_batch_size: int,
    seed: int = 0,
    *,
    sample_bytes: float | None = None,
    ranks: int = 8,
    workers: int = 4,
) -> MixingReport:
    """Return how well the batches of a source mix, from at most 200 of them in each of two epochs.

    `sample_bytes` is the mean of a sample's; open_clip would read on `ranks` processes of `workers` each.

    Raises:
        ConfigError: a size below 1.
    """
    for name, value in (("global batch size", global_batch_size), ("ranks", ranks), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
    order = Order([source], seed)
    epochs = [_first_positions(source.samples, global_batch_size, seed, epoch) for epoch in (0, 1)]
    batches = [[order.batch(first, global_batch_size).number for first in epoch.tolist()] for epoch in epochs]
    seen = _look_at(source.counts, batches[0])
    due = [_due(epoch, held) for epoch, held in zip(epochs, batches, strict=True)]
    moves = [np.abs(order.moves(first + np.arange(global_batch_size))) for first in epochs[0]]
    longest_lane = math.ceil(source.samples / source.lane_count)
    buffered = source.lane_count * min(source.reach, longest_lane)
    ours = _mixing(seen, _correlation(*due), np.concatenate(moves) * source.lane_count, buffered, sample_bytes)
    independent = _independent(source.counts, global_batch_size, sample_bytes)
    return MixingReport(
        ours=ours,
        independent=independent,
        open_clip=_open_clip(Readers(source.counts, global_batch_size, ranks, workers), seed, sample_bytes),
        batches=len(batches[0]),
        verdict=tuple(_verdict(source, global_batch_size, seen, ours, independent)),
    )


def _first_positions(samples: int, batch_size: int, seed: int, epoch: int) -> Integers:
    """Return where the batches begin that are looked at: all of an epoch, or one drawn from each of equal parts."""
    whole = max(1, samples // batch_size)
    looks = min(whole, max(20, min(BATCHES, SAMPLES // batch_size)))
    edges = np.arange(looks + 1) * whole // looks
    draws = mix("look", seed, epoch, np.arange(looks)) % np.diff(edges).astype(np.uint64)
    return epoch * samples + (edges[:-1] + draws.astype(np.int64)) * batch_size


def _due(first: Integers, batches: Sequence[Integers]) -> tuple[Integers, Integers]:
    """Return the samples of some batches, and when each comes."""
    return np.concatenate(batches), np.repeat(first, [len(batch) for batch in batches])


def _correlation(before: tuple[Integers, Integers], after: tuple[Integers, Integers]) -> float:
    """Return the correlation between when a sample comes in two epochs, over those seen in both."""
    _, a, b = np.intersect1d(before[0], after[0], return_indices=True)
    when, again = before[1][a], after[1][b]
    if len(a) < MATCHES or np.ptp(when) == 0 or np.ptp(again) == 0:
        return math.nan
    return float(np.corrcoef(when, again)[0, 1])


def _look_at(counts: Integers, batches: Sequence[Integers]) -> _Seen:
    ends, samples = np.cumsum(counts), int(counts.sum())
    classes = min(CLASSES, samples)
    class_ends = np.arange(1, classes + 1) * samples // classes
    shares = np.diff(class_ends, prepend=0) / samples
    shards, chi2 = [], []
    for batch in batches:
        shards.append(len(np.unique(np.searchsorted(ends, batch, side="right"))))
        held = np.bincount(np.searchsorted(class_ends, batch, side="right"), minlength=classes)
        expected = len(batch) * shares
        chi2.append(float(((held - expected) ** 2 / expected).sum()) / max(1, classes - 1))
    return _Seen(
        shards_per_batch=float(np.mean(shards)),
        next=_meetings(batches, ends, 1),
        tenth=_meetings(batches, ends, 10),
        class_chi2=float(np.mean(chi2)),
    )


def _meetings(batches: Sequence[Integers], ends: Integers, distance: int) -> _Meetings:
    """Count the pairs of samples of a shard, `distance` apart, of which a batch holds the first, and both."""
    pairs, found, expected = 0, 0, 0.0
    for batch in batches:
        held = np.unique(batch)
        paired = held[held + distance < ends[np.searchsorted(ends, held, side="right")]]
        pairs += len(paired)
        found += int(np.isin(paired + distance, held, assume_unique=True).sum())
        expected += len(paired) * (len(held) - 1) / max(1, int(ends[-1]) - 1)
    return _Meetings(pairs, found, expected)


def _mixing(
    seen: _Seen, correlation: float, moves: Integers, buffered_samples: int, sample_bytes: float | None
) -> Mixing:
    return Mixing(
        shards_per_batch=seen.shards_per_batch,
        next_odds=seen.next.odds,
        tenth_odds=seen.tenth.odds,
        class_chi2=seen.class_chi2,
        epoch_correlation=correlation,
        mean_displacement=float(moves.mean()),
        largest_displacement=int(moves.max()),
        buffered_samples=buffered_samples,
        buffered_bytes=None if sample_bytes is None else buffered_samples * sample_bytes,
    )


def _independent(counts: Integers, batch_size: int, sample_bytes: float | None) -> Mixing:
    samples = int(counts.sum())
    return Mixing(
        shards_per_batch=float((1 - (1 - counts / samples) ** batch_size).sum()),
        next_odds=1.0,
        tenth_odds=1.0,
        class_chi2=1.0,
        epoch_correlation=0.0,
        mean_displacement=(samples - 1 / samples) / 3,
        largest_displacement=samples - 1,
        buffered_samples=samples,
        buffered_bytes=None if sample_bytes is None else samples * sample_bytes,
    )


def _open_clip(readers: Readers, seed: int, sample_bytes: float | None) -> Mixing | None:
    epochs = [open_clip_epoch(readers, seed, epoch) for epoch in (0, 1)]
    if epochs[0] is None or epochs[1] is None:
        return None
    batches, is_whole = epochs[0].batches, epochs[0].is_whole
    # Of an epoch too long to simulate, what counts is its bulk, after the buffers have filled.
    looked_at = batches if is_whole else batches[len(batches) // 2 :]
    streams = readers.ranks * readers.workers
    due = [_due(np.arange(len(epoch.batches)), epoch.batches) for epoch in epochs if epoch is not None]
    return _mixing(
        _look_at(readers.counts, looked_at[:: math.ceil(len(looked_at) / BATCHES)]),
        _correlation(*due) if is_whole else math.nan,
        np.abs(epochs[0].moves) * streams,
        min(streams * BUFFER, int(readers.counts.sum())),
        sample_bytes,
    )


def _verdict(source: Source, batch_size: int, seen: _Seen, ours: Mixing, independent: Mixing) -> list[str]:
    shards, lines = int((source.counts > 0).sum()), list[str]()
    if batch_size > source.samples:
        lines.append(f"a batch of {batch_size} repeats samples, of which there are {source.samples}: lower its size")
    if source.lane_count > shards:
        lines.append(
            f"fewer shards ({shards}) than lanes ({source.lane_count}): lower data.lanes, or write more shards"
        )
    if ours.shards_per_batch < 0.7 * independent.shards_per_batch:
        lines.append(
            f"shards per batch {ours.shards_per_batch:.0f}, by chance {independent.shards_per_batch:.0f}: raise "
            "data.lanes or data.window"
        )
    worst = max(seen.next, seen.tenth, key=lambda meetings: meetings.found)
    if worst.is_excess:
        lines.append(
            f"neighbours of a shard meet in a batch {worst.odds:.1f} times as often as by chance ({worst.share:.1%} of "
            "them): raise data.window"
        )
    if ours.class_chi2 > 3:
        lines.append(
            f"were the shards sorted by class, the classes of a batch would scatter {ours.class_chi2:.1f} times as "
            "much as by chance: raise data.lanes and data.window, or shuffle the samples once, when writing the shards"
        )
    # Whole shards that happen to come at the same time twice are chance, and the fewer there are the likelier.
    if ours.epoch_correlation > max(0.2, 3 / math.sqrt(shards)):
        lines.append(
            f"when a sample comes in two epochs correlates by {ours.epoch_correlation:.2f}: lower data.lanes to at "
            f"most {max(1, shards // 4)}, a quarter of the shards"
        )
    return lines
