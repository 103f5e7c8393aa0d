"""Which of many are near: hashes by the bits in which they differ, features by their cosine.

Hashes are compared with all others. That is exact, and FAISS does 2 x 10^9 comparisons a second and core: 4 minutes of
a core for a million different hashes (each meets those before it), 7 hours for ten million, shared by the engine's
processes. Its hash tables with 4 x 16 bits (multi-index hashing: Norouzi et al. 2012, arXiv:1307.2982) are exact as
well, and take 67 times as long for a million hashes and distances of 12 to 15, as they look into 2,788 buckets each.

Features are compared with all others up to EXACT samples. Above, k-means splits them and only those of a cluster are
compared, as in SemDeDup (Abbas et al. 2023, arXiv:2303.09540, section 3); but each belongs to its two nearest clusters,
so that a pair is not lost at a border. Features are read from disk cluster by cluster.

N samples, U different hashes, M near pairs, E width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.hashing import mix
from contrastive.recipes.engine import Engine

Integers: TypeAlias = NDArray[np.int64]
Hashes: TypeAlias = NDArray[np.uint64]
Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]
QUERIES = 4096  # of a task
MOST_HASHES = 256  # neighbours that are kept of a hash: the nearest ones
MOST_EARLIER = 32  # neighbours that are kept of a sample's features: those of lowest rank
EXACT = 50_000  # samples whose features are all compared: 100 MB, and a minute of a core
CLUSTER = 2048  # samples, on average
SEEN = 64  # samples for each centroid that k-means learns from
SEED = 20230316
ROWS = 2048  # of a block of cosines: 64 MB
COLUMNS = 8192


class Rows(Protocol):
    """Features on disk, as `contrastive.recipes.embedding.Features`; a row without features is NaN."""

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        ...

    def image(self, numbers: Integers) -> Floats:
        """Return the image features of samples, float32 [n, E] of length 1."""
        ...


class Pairs(NamedTuple):
    """Pairs of numbers and how far or how near they are, [M] each."""

    one: Integers
    other: Integers
    value: Floats

    def at(self, rows: slice | NDArray[Any]) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.one[rows], self.other[rows], self.value[rows])

    @classmethod
    def joined(cls, found: Sequence["Pairs"]) -> "Pairs":
        """Return the pairs of several."""
        none = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        every = (none, *found)
        return cls(
            np.concatenate([one.one for one in every]),
            np.concatenate([one.other for one in every]),
            np.concatenate([one.value for one in every]),
        )


@dataclass(frozen=True)
class Lists:
    """For each of `starts` - 1 things a list of others, `others[starts[i] : starts[i + 1]]`."""

    starts: Integers
    others: Integers

    @classmethod
    def of(cls, keys: Integers, others: Integers, count: int) -> "Lists":
        """Return the lists of keys 0 to count - 1, each in the order given."""
        order = np.argsort(keys, kind="stable")
        return cls(np.searchsorted(keys[order], np.arange(count + 1)), others[order])

    def __getitem__(self, key: int) -> Integers:
        return self.others[self.starts[key] : self.starts[key + 1]]


def near_hashes(hashes: Hashes, distance: int, engine: Engine, progress: Progress) -> Pairs:
    """Return the pairs of different hashes [U] at most `distance` bits apart, the later one first; each pair once.

    Of a hash with more than MOST_HASHES earlier neighbours the nearest ones are returned.
    """
    tasks = ((hashes[start : start + QUERIES], start) for start in range(0, len(hashes), QUERIES))
    return _gathered(_Hamming(hashes, distance, is_triangle=True), tasks, len(hashes), engine, progress)


def hashes_near(queries: Hashes, base: Hashes, distance: int, engine: Engine, progress: Progress) -> Pairs:
    """Return the pairs (query, base) at most `distance` bits apart; see `near_hashes`."""
    tasks = ((queries[start : start + QUERIES], start) for start in range(0, len(queries), QUERIES))
    return _gathered(_Hamming(base, distance, is_triangle=False), tasks, len(queries), engine, progress)


@dataclass(frozen=True)
class _Hamming:
    base: Hashes
    distance: int
    is_triangle: bool

    def __call__(self, task: tuple[Hashes, int]) -> Pairs:
        import faiss  # heavy

        queries, start = task
        stop = start + len(queries) if self.is_triangle else len(self.base)
        index = faiss.IndexBinaryFlat(64)
        index.add(_as_bytes(self.base[:stop]))
        limits, distances, found = index.range_search(_as_bytes(queries), self.distance + 1)  # less than that
        rows = np.repeat(np.arange(len(queries)), (limits[1:] - limits[:-1]).astype(np.int64))
        if self.is_triangle:
            earlier = found < rows + start
            rows, distances, found = rows[earlier], distances[earlier], found[earlier]
        order = np.lexsort((found, distances, rows))
        rows, distances, found = rows[order], distances[order], found[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # among those of its row
        kept = place < MOST_HASHES
        return Pairs(rows[kept] + start, found[kept].astype(np.int64), distances[kept].astype(np.float32))


def _as_bytes(hashes: Hashes) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)


def _gathered(
    search: Callable[[tuple[Hashes, int]], Pairs],
    tasks: Iterator[tuple[Hashes, int]],
    total: int,
    engine: Engine,
    progress: Progress,
) -> Pairs:
    found = []
    for at, pairs in enumerate(engine.map(search, tasks)):
        found.append(pairs)
        progress(min((at + 1) * QUERIES, total), total)
    return Pairs.joined(found)


def near_features(
    rows: Rows, numbers: Integers, threshold: float, engine: Engine, progress: Progress, exact: int = EXACT
) -> Pairs:
    """Return the pairs of samples whose cosine is at least `threshold`: (later, earlier) in the order of `numbers`.

    `numbers` are samples with features, in order of their rank. Of a sample with more than MOST_EARLIER earlier
    neighbours in a cluster those of lowest rank are returned.
    """
    clusters = [numbers] if len(numbers) <= exact else _clusters(rows, numbers, progress)
    tasks = [(members, at) for members in clusters for at in range(0, len(members), ROWS)]
    found, done = [], 0
    total = sum(min(ROWS, len(members) - at) for members, at in tasks)
    for (members, at), pairs in zip(tasks, engine.map(_Cosines(rows, threshold), tasks), strict=True):
        found.append(pairs)
        done += min(ROWS, len(members) - at)
        progress(done, total)
    return _once(Pairs.joined(found))


@dataclass(frozen=True)
class _Cosines:
    """Compares members at to at + ROWS - 1 of a cluster with all members before them."""

    rows: Rows
    threshold: float

    def __call__(self, task: tuple[Integers, int]) -> Pairs:
        members, at = task
        mine = members[at : at + ROWS]
        features = self.rows.image(mine)
        left = np.full(len(mine), MOST_EARLIER)
        found = []
        for start in range(0, at + len(mine), COLUMNS):
            others = members[start : min(start + COLUMNS, at + len(mine))]
            cosines = features @ self.rows.image(others).T
            near = cosines >= self.threshold
            near &= start + np.arange(len(others)) < at + np.arange(len(mine))[:, None]
            near &= near.cumsum(1) <= left[:, None]
            left = left - near.sum(1)
            one, other = np.nonzero(near)
            found.append(Pairs(mine[one], others[other], cosines[one, other]))
        return Pairs.joined(found)


def _clusters(rows: Rows, numbers: Integers, progress: Progress) -> list[Integers]:
    """Return the members of each cluster, in the order of `numbers`; each is in its two nearest ones."""
    import faiss  # heavy

    count = -(-len(numbers) // CLUSTER)
    drawn = np.argsort(mix("clusters", SEED, numbers), kind="stable")[: SEEN * count]
    means = faiss.Kmeans(
        rows.width, count, niter=10, seed=SEED, spherical=True, min_points_per_centroid=1, max_points_per_centroid=SEEN
    )
    means.train(rows.image(numbers[np.sort(drawn)]))
    nearest = np.empty((len(numbers), min(2, count)), np.int32)
    for start in range(0, len(numbers), COLUMNS):
        piece = slice(start, start + COLUMNS)
        nearest[piece] = means.index.search(rows.image(numbers[piece]), nearest.shape[1])[1]
        progress(min(start + COLUMNS, len(numbers)), len(numbers))
    owners = np.repeat(np.arange(len(numbers)), nearest.shape[1])
    lists = Lists.of(nearest.ravel().astype(np.int64), owners, count)
    return [numbers[lists[cluster]] for cluster in range(count) if len(lists[cluster]) > 1]


def _once(pairs: Pairs) -> Pairs:
    """Return pairs in order of their numbers, each once."""
    order = np.lexsort((pairs.other, pairs.one))
    found = pairs.at(order)
    new = np.ones(len(order), bool)
    new[1:] = (found.one[1:] != found.one[:-1]) | (found.other[1:] != found.other[:-1])
    return found.at(new)


def features_near(
    rows: Rows, numbers: Integers, base: Floats, threshold: float, engine: Engine, progress: Progress
) -> Pairs:
    """Return for each sample with a cosine of at least `threshold` to any of `base` [R, E] the nearest of those."""
    tasks = [numbers[start : start + ROWS] for start in range(0, len(numbers), ROWS)]
    found = []
    for at, pairs in enumerate(engine.map(_Nearest(rows, base, threshold), tasks)):
        found.append(pairs)
        progress(min((at + 1) * ROWS, len(numbers)), len(numbers))
    return Pairs.joined(found)


@dataclass(frozen=True)
class _Nearest:
    rows: Rows
    base: Floats
    threshold: float

    def __call__(self, mine: Integers) -> Pairs:
        features = self.rows.image(mine)
        best, where = np.full(len(mine), -2, np.float32), np.zeros(len(mine), np.int64)
        for start in range(0, len(self.base), COLUMNS):
            cosines = features @ self.base[start : start + COLUMNS].T
            at = cosines.argmax(1)
            value = cosines[np.arange(len(mine)), at]
            better = value > best
            best, where = np.where(better, value, best), np.where(better, at + start, where)
        near = best >= self.threshold
        return Pairs(mine[near], where[near], best[near])
