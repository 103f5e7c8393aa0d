"""Groups of equal or near samples, and which of each stays.

The star rule: samples are visited by rank, and one is dropped only if it is near a sample that stays. Being near is not
passed on: in a chain where each is near the next, the first and the last may have nothing in common, and connected
components would drop all but one. Of what stays, no two are near as far as the search found them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastive.recipes.curation.exact import firsts
from contrastive.recipes.curation.near import Floats, Integers, Lists, Pairs, Progress, near_hashes
from contrastive.recipes.curation.perceptual import Rule, alike
from contrastive.recipes.curation.signatures import Records, in_pieces
from contrastive.recipes.engine import Engine

EXACT, PERCEPTUAL, EMBEDDING = (f"duplicate: {way}" for way in ("exact", "perceptual", "embedding"))
REASONS = ("", EXACT, PERCEPTUAL, EMBEDDING)
BINS = 50  # of likenesses from 0.5 to 1
PIECE = 4096  # pairs whose records are held


@dataclass
class Stars:
    """Which sample stands for each, and why; a sample that stays stands for itself."""

    kept_for: Integers  # [N]
    reason: NDArray[np.uint8]  # [N]: of REASONS
    distance: Floats  # [N]: bits between the hashes; NaN where that is not why
    likeness: Floats  # [N]
    cosine: Floats  # [N]
    compared: NDArray[np.int64]  # [BINS]: likenesses of all candidates

    @classmethod
    def of(cls, count: int) -> "Stars":
        """Return the groups of `count` samples that all stay."""
        nothing = np.full(count, np.nan, np.float32)
        scores = nothing, nothing.copy(), nothing.copy()
        return cls(np.arange(count), np.zeros(count, np.uint8), *scores, np.zeros(BINS, np.int64))

    def drop(self, numbers: Integers, kept: Integers | int, reason: str) -> None:
        """Let `kept` stand for samples."""
        self.kept_for[numbers] = kept
        self.reason[numbers] = REASONS.index(reason)

    @property
    def stay(self) -> NDArray[np.bool_]:
        """Which samples stay, bool [N]."""
        found: NDArray[np.bool_] = self.kept_for == np.arange(len(self.kept_for))
        return found

    def follow(self) -> None:
        """Give copies of what was dropped its representative: they are equal to it, so they are as near."""
        while len(moved := np.flatnonzero(self.kept_for[self.kept_for] != self.kept_for)):
            kept = self.kept_for[moved]
            for column in (self.distance, self.likeness, self.cosine, self.reason, self.kept_for):
                column[moved] = column[kept]


def ranked(count: int, keep: str, sizes: NDArray[np.int32] | None = None, scores: Floats | None = None) -> Integers:
    """Return the samples' ranks, int64 [N]: of a group, the one of lowest rank stays.

    `keep` is first, largest (by pixels [N, 2]) or score (the highest; one without a score comes last); what is equal
    is taken in the order of the pool.
    """
    numbers = np.arange(count)
    if keep == "largest":
        assert sizes is not None, "the sizes were read"
        order = np.lexsort((numbers, -sizes.astype(np.int64).prod(1)))
    elif keep == "score":
        assert scores is not None, "the scores were read"
        order = np.lexsort((numbers, -np.nan_to_num(scores, nan=-np.inf)))
    else:
        order = numbers
    rank = np.empty(count, np.int64)
    rank[order] = numbers
    return rank


def drop_equal(stars: Stars, digests: NDArray[np.uint64], rank: Integers, is_in: NDArray[np.bool_]) -> None:
    """Drop all but one of the samples with one digest, among those that `is_in` and are not dropped yet."""
    left = is_in & stars.stay
    found = firsts(np.where(left[:, None], digests, np.uint64(0)), rank)
    numbers = np.flatnonzero(found != np.arange(len(found)))
    stars.drop(numbers, found[numbers], EXACT)
    stars.follow()


def drop_alike(
    stars: Stars,
    records: Records,
    rank: Integers,
    is_in: NDArray[np.bool_],
    rule: Rule,
    engine: Engine,
    progress: Progress,
    near: Pairs | None = None,
) -> int:
    """Drop what looks like another one that stays; return how many pairs of images were compared.

    Images are compared when one that stays is visited, with those of near hashes, and those that `near` names besides,
    that are not dropped yet. A thousand copies of one picture cost a thousand comparisons, not a million. Flat images,
    which have no hash, are dropped where all their pixels are equal.
    """
    is_flat = in_pieces(records, "flat").astype(bool)
    drop_equal(stars, in_pieces(records, "pixels"), rank, is_in & is_flat)
    left = np.flatnonzero(is_in & ~is_flat & stars.stay)
    left = left[np.argsort(rank[left], kind="stable")]
    candidates = Candidates.among(in_pieces(records, "hash")[left], left, rule, engine, progress, near)
    stays = np.ones(len(left), bool)
    compared = 0
    for place in candidates.places():
        if not stays[place]:
            continue
        others = candidates.after(place)
        others = others[stays[others]]
        compared += len(others)
        for start in range(0, len(others), PIECE):
            piece = others[start : start + PIECE]
            value, enough = _likeness(stars, records, int(left[place]), left[piece], rule)
            gone = piece[enough]
            stays[gone] = False
            bits = candidates.bits(place, gone)
            for reason, these in ((PERCEPTUAL, bits <= rule.distance), (EMBEDDING, bits > rule.distance)):
                stars.drop(left[gone[these]], left[place], reason)
            stars.distance[left[gone]], stars.likeness[left[gone]] = bits, value[enough]
    stars.follow()
    return compared


@dataclass(frozen=True)
class Candidates:
    """Which samples may look like another, by their places in order of rank."""

    hashes: NDArray[np.uint64]  # [U] different ones
    hash_of: Integers  # which of them each place has
    members: Lists  # the places of a hash
    near: Lists  # the hashes near a hash
    besides: Lists  # the places that follow a place for another reason

    @classmethod
    def among(
        cls,
        hashes: NDArray[np.uint64],
        numbers: Integers,
        rule: Rule,
        engine: Engine,
        progress: Progress,
        near: Pairs | None,
    ) -> "Candidates":
        """Return the candidates among samples `numbers`, in order of their rank; `near` is (later, earlier)."""
        different, inverse = np.unique(hashes, return_inverse=True)
        hash_of: Integers = inverse.astype(np.int64)
        members = Lists.of(hash_of, np.arange(len(numbers)), len(different))
        pairs = near_hashes(different, rule.distance, engine, progress)
        ends = np.concatenate([pairs.one, pairs.other]), np.concatenate([pairs.other, pairs.one])
        place = np.full(int(numbers.max(initial=-1)) + 1, -1, np.int64)
        place[numbers] = np.arange(len(numbers))
        named = Pairs.joined([] if near is None else [near])
        later, earlier = place[named.one], place[named.other]
        known = (later >= 0) & (earlier >= 0)
        besides = Lists.of(earlier[known], later[known], len(numbers))
        return cls(different, hash_of, members, Lists.of(*ends, len(different)), besides)

    def places(self) -> list[int]:
        """Return the places that have candidates."""
        many = (np.diff(self.members.starts) > 1) | (np.diff(self.near.starts) > 0)
        found: list[int] = np.flatnonzero(many[self.hash_of] | (np.diff(self.besides.starts) > 0)).tolist()
        return found

    def after(self, place: int) -> Integers:
        """Return the candidates of a place that come after it, rising."""
        hashes = (int(self.hash_of[place]), *self.near[int(self.hash_of[place])].tolist())
        found = np.unique(np.concatenate([self.besides[place], *(self.members[one] for one in hashes)]))
        return found[found > place]

    def bits(self, one: int, others: Integers) -> NDArray[np.uint8]:
        """Return in how many bits the hash of a place differs from those of others."""
        found: NDArray[np.uint8] = np.bitwise_count(self.hashes[self.hash_of[one]] ^ self.hashes[self.hash_of[others]])
        return found


def drop_near(stars: Stars, pairs: Pairs, rank: Integers) -> None:
    """Drop the later one of pairs of near features, (later, earlier) by rank, where the earlier one stays."""
    order = np.lexsort((rank[pairs.other], rank[pairs.one]))
    stays = stars.stay
    for at in order.tolist():
        later, earlier = int(pairs.one[at]), int(pairs.other[at])
        if stays[later] and stays[earlier]:
            stays[later] = False
            stars.drop(pairs.one[at : at + 1], earlier, EMBEDDING)
            stars.cosine[later] = pairs.value[at]
    stars.follow()


def sizes_of_groups(stars: Stars) -> Integers:
    """Return how many samples each group of two or more has."""
    counts = np.bincount(stars.kept_for, minlength=len(stars.kept_for))
    found: Integers = counts[counts > 1]
    return found


def _likeness(
    stars: Stars, records: Records, one: int, others: Integers, rule: Rule
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the likeness of a sample to others, and which of them look like it; all are counted."""
    second = records[others]
    first = records[np.full(len(others), one)]
    value, enough = alike((first["luma"], second["luma"]), (first["chroma"], second["chroma"]), rule)
    stars.compared += np.histogram(value.clip(0.5, 1), BINS, (0.5, 1.0))[0]
    return value, enough
