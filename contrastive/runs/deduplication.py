"""`contrastive data dedup`: what is in the shards twice, and what evaluation sets have in common with them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool, storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation import leaks
from contrastive.recipes.curation.duplicates import Stars, drop_alike, drop_equal, drop_near, ranked
from contrastive.recipes.curation.leaks import Leaks, Reference
from contrastive.recipes.curation.near import Integers, Pairs, near_features
from contrastive.recipes.curation.signatures import (
    READ,
    OfPictures,
    OfSamples,
    Records,
    Wanted,
    identity,
    in_pieces,
    layout,
    signed,
)
from contrastive.recipes.embedding import Features
from contrastive.recipes.engine import Engine
from contrastive.recipes.verdicts import aligned, column
from contrastive.runs.deduplication_report import Outcome, write
from contrastive.runs.deduplication_request import Request
from contrastive.runs.opening import open_shards
from contrastive.runs.references import ReferenceSet, embedded, open_reference
from contrastive.runs.steps import conclude, new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine

__all__ = ["Request", "deduplicate"]
PARTS = ".parts"


def deduplicate(config: Config, request: Request) -> int:
    """Find duplicates and leaks, write verdicts, groups and a report; return the exit status.

    What was computed of the images is kept in DIR/.parts until the end, so that the same command goes on after a kill.

    Raises:
        UserError: the request contradicts itself, or something that it names cannot be used.
    """
    request.check()
    new_folder(request.out)
    sets = [open_reference(word) for word in dict.fromkeys(request.against)]
    pool = open_shards(config)
    with open_engine(request.engine, request.processes) as engine:
        reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
        features = None if request.features is None else Features.open(request.features, pool)
        work = _Work(request, reader, engine, features)
        references = [work.reference(one) for one in sets]
        outcome = work.outcome(references)
    step = write(outcome, request.out)
    conclude(step, request.out)
    shutil.rmtree(request.out / PARTS, ignore_errors=True)
    return 0


@dataclass
class _Work:
    """One deduplication."""

    request: Request
    reader: Reader
    engine: Engine
    features: Features | None

    @property
    def pool(self) -> Pool:
        """The samples."""
        return self.reader.pool

    @cached_property
    def records(self) -> Records:
        """What is known of each sample."""
        wanted = self.request.wanted
        name = identity(fingerprint=self.pool.fingerprint, keys=_keys(self.pool), wanted=wanted)
        return self._signed("hashing images", f"samples-{name}", len(self.pool), OfSamples(self.reader, wanted))

    @cached_property
    def rank(self) -> Integers:
        """Who stays of a group: the one of lowest rank."""
        sizes = in_pieces(self.records, "size") if self.request.keep == "largest" else None
        return ranked(len(self.pool), self.request.keep, sizes, _scores(self.request.score, self.pool))

    def reference(self, one: ReferenceSet) -> Reference:
        """Return what is known of the images of a set."""
        wanted = Wanted(None, pixels=self.request.method == "exact", looks=self.request.looks)
        name = identity(stamp=one.stamp, images=len(one.pictures), wanted=wanted)
        pictures = one.pictures
        records = self._signed(f"hashing {one.name}", f"against-{name}", len(pictures), OfPictures(pictures, wanted))
        features = None
        if self.features is not None and self.request.method == "embedding":
            with CountLine(f"embedding {one.name}") as progress:
                features = embedded(one, self.features, progress)
        name_of, image_of = (lambda number: pictures[number].name), (lambda number: pictures[number].decode())
        return Reference(one.name, len(pictures), name_of, image_of, records, features)

    def outcome(self, references: Sequence[Reference]) -> Outcome:
        """Return what becomes of each sample: unreadable and leaked ones are dropped before any is compared."""
        is_in = in_pieces(self.records, "state") == READ
        found = [(one, self._leaks(one)) for one in references]
        for _, leaked in found:
            is_in &= leaked.image < 0
        stars, compared = Stars.of(len(self.pool)), 0
        drop_equal(stars, in_pieces(self.records, "digest"), self.rank, is_in)
        pairs = self._near(is_in & stars.stay) if self.request.embeds else None
        if self.request.looks:
            with CountLine("comparing hashes") as progress:
                rule = self.request.rule
                compared = drop_alike(stars, self.records, self.rank, is_in, rule, self.engine, progress, pairs)
        elif pairs is not None:
            drop_near(stars, pairs, self.rank)
        return Outcome(self.reader, self.request, self.records, stars, found, compared)

    def _leaks(self, reference: Reference) -> Leaks:
        request, found = self.request, Leaks.none(len(self.pool))
        with CountLine(f"comparing with {reference.name}") as progress:
            if request.method == "exact":
                leaks.mark_equal(found, self.records, reference)
            if request.looks:
                leaks.mark_alike(found, self.records, reference, request.rule, self.engine, progress)
            if request.method == "embedding":
                assert self.features is not None, "the request was checked"
                numbers = np.flatnonzero(self._embedded)
                leaks.mark_near(found, self.features, numbers, reference, request.threshold, self.engine, progress)
        return found

    @cached_property
    def _embedded(self) -> NDArray[np.bool_]:
        """Which samples have features."""
        assert self.features is not None, "only asked where there are some"
        return np.concatenate([np.isfinite(rows).all(1) for _, rows in self.features.chunks()])

    def _near(self, is_in: NDArray[np.bool_]) -> Pairs:
        """Return which of these samples have near features, (later, earlier) by rank."""
        assert self.features is not None, "only asked where there are some"
        left = np.flatnonzero(is_in & self._embedded)
        numbers = left[np.argsort(self.rank[left], kind="stable")]
        with CountLine("comparing features") as progress:
            return near_features(self.features, numbers, self.request.threshold, self.engine, progress)

    def _signed(self, what: str, name: str, count: int, sign: OfSamples | OfPictures) -> Records:
        with CountLine(what) as progress:
            path = self.request.out / PARTS / f"{name}.bin"
            return signed(path, count, sign, layout(sign.wanted), self.engine, progress)


def _keys(pool: Pool) -> list[str]:
    return [f"{spec.image} {spec.captions.keys}" for spec in pool.specs]


def _scores(word: str | None, pool: Pool) -> NDArray[np.float32] | None:
    """Return the scores that FILE:COLUMN names, one for each sample; NaN where there is none."""
    if word is None:
        return None
    file, _, name = word.rpartition(":")
    if not file or not name:
        raise ConfigError(f"--score {word}: must be FILE:COLUMN, such as scores.parquet:clip_score")
    values, at = column(Path(file), name), aligned(Path(file), pool)
    if not np.issubdtype(values.dtype, np.number):
        raise DataError(f"{file}: column {name!r} holds no numbers, and the highest score is to stay; name another")
    found = np.full(len(pool), np.nan, np.float32)
    found[at >= 0] = values[at[at >= 0]]
    return found
