"""Which sample comes at which position: a pure function of (sizes of the shards, seed, position).

Position p is the p-th sample that training ever consumes; epoch e holds positions e*E to (e+1)*E - 1. Nothing is
stored but the sizes of the shards, so a run may start at any position at once, on any number of processes.

A pass over a source shows each of its samples once. Where random reads are cheap a pass is one permutation of the
whole source. Where reading must stay sequential, the shards of a pass are laid end to end in a random order and cut
into `lanes` of equal length; the pass takes from every lane in turn, and inside a lane blocks of `window` samples are
permuted, so that a sample moves by less than a window. The permutations are Feistel networks with cycle walking (Black
and Rogaway, "Ciphers with arbitrary finite domains", 2002) over a hash of our own: the streams of numpy and torch may
change between versions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.errors import ConfigError
from contrastive.hashing import mix

ROUNDS = 6  # of a balanced Feistel network; 4 are already a pseudorandom permutation (Luby and Rackoff 1988)
Integers = NDArray[np.int64]


class Draws(NamedTuple):
    """What comes at some positions, int64 [B] each: sample numbers, passes, sources, and lanes over all sources."""

    number: Integers
    occurrence: Integers  # the pass; with replacement the draw's own number, so that repeats differ
    source: Integers
    lane: Integers


class _Places(NamedTuple):
    """Where some positions stand, int64 [B] each."""

    source: Integers
    walk: Integers  # which pass over the source
    drawn: Integers  # which draw from the source, over all passes
    lane: Integers
    lane_start: Integers  # in the shards of the pass, laid end to end
    place: Integers  # in the lane, by the clock
    moved: Integers  # the place in the lane of the sample that comes


@dataclass(frozen=True, eq=False)
class Source:
    """The usable samples of each shard, int64 [S], how often an epoch shows a sample, and how the source is read.

    `window` None permutes whole lanes.
    """

    counts: Integers
    weight: float | str = 1.0
    lanes: int = 1
    window: int | None = None

    def __post_init__(self) -> None:
        try:
            weight = float(self.weight)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ConfigError(f"a source's weight: {self.weight} must be a number above 0, the showings of a sample")
        if self.lanes < 1 or (self.window is not None and self.window < 1):
            raise ConfigError(f"data.lanes and data.window: {self.lanes} and {self.window} must be at least 1")
        if not self.samples:
            raise ConfigError("a source has no samples; leave it out")

    @cached_property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.counts.sum())

    @cached_property
    def starts(self) -> Integers:
        """The number of each shard's first sample, int64 [S]."""
        return np.cumsum(self.counts) - self.counts

    @property
    def epoch_samples(self) -> int:
        """How many of its samples an epoch holds."""
        return max(1, round(Fraction(str(self.weight)) * self.samples))

    @property
    def lane_count(self) -> int:
        """How many lanes there are; none is empty."""
        return min(self.lanes, self.samples)

    @property
    def reach(self) -> int:
        """How many samples of a lane are permuted together."""
        return self.samples if self.window is None else min(self.window, self.samples)

    @property
    def is_whole(self) -> bool:
        """Whether a pass is one permutation of the source."""
        return self.lane_count == 1 and self.reach == self.samples


class Order:
    """The order in which training consumes the samples of its sources, which are numbered through.

    Sources are mixed evenly: after any part of an epoch each has had its share, to within a sample. With `replacement`
    every draw is independent: from the whole source or, where a window is set, from its place's block.
    """

    def __init__(self, sources: Sequence[Source], seed: int, replacement: bool = False) -> None:
        if not sources:
            raise ConfigError("data.sources: names none")
        self.sources, self.seed, self.replacement = tuple(sources), seed, replacement
        self.counts = np.array([source.epoch_samples for source in self.sources], np.int64)
        self.epoch_samples = int(self.counts.sum())
        self._sizes = np.array([source.samples for source in self.sources], np.int64)  # [K]
        self._starts = np.cumsum(self._sizes) - self._sizes  # the number of each source's first sample
        self._lanes = np.array([source.lane_count for source in self.sources], np.int64)
        self._windows = np.array([source.reach for source in self.sources], np.int64)
        self._passes: dict[int, dict[int, tuple[Integers, Integers]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": {}}

    @property
    def is_sequential(self) -> bool:
        """Whether some source is read in lanes."""
        return any(source.lane_count > 1 for source in self.sources)

    def at(self, positions: Integers) -> Draws:
        """Return what comes at `positions`, int64 [B] of at least 0."""
        at = self._places(positions)
        number = self._starts[at.source] + self._unlaid(at.source, at.walk, at.lane_start + at.moved)
        lane = at.lane + (np.cumsum(self._lanes) - self._lanes)[at.source]
        return Draws(number, at.drawn if self.replacement else at.walk, at.source, lane)

    def moves(self, positions: Integers) -> Integers:
        """Return by how many places of its lane each position's sample comes late (above 0) or early, int64 [B]."""
        at = self._places(positions)
        return at.place - at.moved

    def batch(self, first: int, size: int) -> Draws:
        """Return positions first to first + size - 1, in the order of a batch's rows.

        Where there are lanes the rows are sorted by them, so that a process that takes consecutive rows reads few.
        """
        draws = self.at(np.arange(first, first + size, dtype=np.int64))
        if not self.is_sequential:
            return draws
        rows = np.argsort(draws.lane, kind="stable")
        return Draws(*(part[rows] for part in draws))

    def _interleave(self, slot: Integers) -> tuple[Integers, Integers]:
        """Return each slot's source and which of the source's samples of the epoch it is.

        Sample j of c stands at time (j + 1/2) / c; slots go by (time, source).
        """
        if len(self.sources) == 1:
            return np.zeros_like(slot), slot
        source, place = np.empty_like(slot), np.empty_like(slot)
        # Slots come nearly consecutive: one stretch of the epoch, or the ends of two.
        cuts = np.flatnonzero(np.abs(np.diff(slot)) > 4 * len(slot) + 64) + 1
        for part in np.split(np.arange(len(slot)), cuts):
            if len(part):
                source[part], place[part] = self._stretch(slot[part])
        return source, place

    def _stretch(self, slot: Integers) -> tuple[Integers, Integers]:
        low, high, margin = int(slot.min()), int(slot.max()), 2 * len(self.sources) + 2
        first = self._before(max(0.0, (low - margin) / self.epoch_samples))  # [K]
        last = self._before((high + margin) / self.epoch_samples)
        held = last - first
        source = np.repeat(np.arange(len(held)), held)
        place = np.arange(len(source)) + np.repeat(first - (np.cumsum(held) - held), held)
        by_time = np.lexsort((source, (place + 0.5) / self.counts[source]))
        wanted = by_time[slot - int(first.sum())]
        return source[wanted], place[wanted]

    def _before(self, time: float) -> Integers:
        """Return how many samples of each source stand before `time`, int64 [K]."""
        count: Integers = np.clip(np.ceil(time * self.counts - 0.5), 0, self.counts).astype(np.int64)
        # The very comparison that sorts: what rounding put on the wrong side moves over.
        while (more := (count < self.counts) & ((count + 0.5) / self.counts < time)).any():
            count += more
        while (less := (count > 0) & ((count - 0.5) / self.counts >= time)).any():
            count -= less
        return count

    def _places(self, positions: Integers) -> _Places:
        positions = np.asarray(positions, np.int64)
        assert (positions >= 0).all()
        epoch, slot = np.divmod(positions, self.epoch_samples)
        source, share = self._interleave(slot)
        drawn = epoch * self.counts[source] + share
        walk, offset = np.divmod(drawn, self._sizes[source])
        place, lane = np.divmod(offset, self._lanes[source])
        short, longer = np.divmod(self._sizes[source], self._lanes[source])
        length, lane_start = short + (lane < longer), lane * short + np.minimum(lane, longer)
        window = self._windows[source]
        # Each lane has its own grid of blocks: otherwise all of them would begin one at the same moment.
        phase = (mix("phase", self.seed, source, walk, lane) % window.astype(np.uint64)).astype(np.int64)
        phase[window >= short] = 0
        block = (place + phase) // window
        begin = np.maximum(block * window - phase, 0)
        size = np.minimum((block + 1) * window - phase, length) - begin
        moved = begin + self._moved(source, (lane, block), walk, drawn, place - begin, size)
        return _Places(source, walk, drawn, lane, lane_start, place, moved)

    def _moved(
        self,
        source: Integers,
        block: tuple[Integers, Integers],
        walk: Integers,
        drawn: Integers,
        offset: Integers,
        size: Integers,
    ) -> Integers:
        """Return where `offset` of a block of `size` goes: a permutation of the block, or an independent draw."""
        if self.replacement:
            return (mix("draw", self.seed, source, drawn) % size.astype(np.uint64)).astype(np.int64)
        if len(self.sources) == 1 and self.sources[0].is_whole:
            # The order of the first version, which published runs have.
            return _permuted(offset, size, ("order", self.seed, walk))
        return _permuted(offset, size, ("order", self.seed, source, *block, walk))

    def _unlaid(self, source: Integers, walk: Integers, laid: Integers) -> Integers:
        """Return the numbers, within their source, of samples at `laid` of the shards laid end to end."""
        number = laid.copy()
        rows = np.lexsort((walk, source))
        cuts = np.flatnonzero(np.diff(source[rows]) | np.diff(walk[rows])) + 1
        for group in np.split(rows, cuts):
            if len(group) == 0 or (held := self.sources[source[group[0]]]).is_whole:
                continue
            shards, ends = self._laid_out(int(source[group[0]]), int(walk[group[0]]))
            at = np.searchsorted(ends, laid[group], side="right")
            shard = shards[at]
            number[group] = held.starts[shard] + laid[group] - (ends[at] - held.counts[shard])
        return number

    def _laid_out(self, s: int, k: int) -> tuple[Integers, Integers]:
        """Return the shards of pass k over source s in their order, int64 [S], and where each one ends."""
        passes = self._passes.setdefault(s, {})
        if k not in passes:
            if len(passes) > 1:
                del passes[min(passes)]
            counts = self.sources[s].counts
            shards = np.argsort(mix("shards", self.seed, s, k, np.arange(len(counts))), kind="stable")
            passes[k] = shards, np.cumsum(counts[shards])
        return passes[k]


def _permuted(offset: Integers, size: Integers, keys: tuple[Any, ...]) -> Integers:
    """Return the images of `offset` under a permutation of 0 .. size - 1 for each row's keys.

    Over the keys, pairs of images are uniform from 17 samples on; below, probabilities are off by up to a tenth.
    """
    # A batch seldom has more than one pass or source: a key that all rows share is hashed once.
    keys = tuple(key[0] if isinstance(key, np.ndarray) and len(key) and (key == key[0]).all() else key for key in keys)
    rounds = [mix(*keys, number) for number in range(ROUNDS)]
    half_bits = np.maximum(1, (_bit_length(size - 1) + 1) // 2).astype(np.uint64)
    bound = size.astype(np.uint64)
    result = _feistel(offset.astype(np.uint64), rounds, half_bits)
    outside = np.flatnonzero(result >= bound)
    while len(outside):
        # Cycle walking: the network permutes the next power of four; follow it until it is back inside.
        inner = [key[outside] if key.ndim else key for key in rounds]
        walked = _feistel(result[outside], inner, half_bits[outside])
        result[outside] = walked
        outside = outside[walked >= bound[outside]]
    return result.astype(np.int64)


def _bit_length(x: Integers) -> Integers:
    # frexp is exact up to 2**53, far beyond any count of samples.
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def _feistel(
    x: NDArray[np.uint64], rounds: list[NDArray[np.uint64]], half_bits: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = x >> half_bits, x & mask
    for key in rounds:
        left, right = right, left ^ (mix(key ^ right) & mask)  # mix(a, b) is mix(mix(a) ^ b): the keys hash once
    return (left << half_bits) | right
