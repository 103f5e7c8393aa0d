"""Training samples that show an image of an evaluation set: what is learned by heart must not be tested.

Every sample is compared with all images of a set. Where a pool has copies of copies, each is judged by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrastive.recipes.curation.duplicates import PIECE
from contrastive.recipes.curation.near import (
    Floats,
    Integers,
    Lists,
    Pairs,
    Progress,
    Rows,
    features_near,
    hashes_near,
)
from contrastive.recipes.curation.perceptual import Rule, alike
from contrastive.recipes.curation.signatures import READ, Records, in_pieces
from contrastive.recipes.engine import Engine

HASHES = 1024  # pairs of hashes that are spread into pairs of images at a time


@dataclass(frozen=True)
class Reference:
    """A set that must not be trained on: its images' names, pictures and records, and features [R, E] where asked."""

    name: str
    count: int
    name_of: Callable[[int], str]
    image_of: Callable[[int], Image.Image]
    records: Records
    features: Floats | None = None


@dataclass(frozen=True)
class Leaks:
    """For each sample which image of the set it shows, int64 [N]; -1 where it shows none; and how near it is."""

    image: Integers
    distance: Floats  # bits of the hash; NaN where it was not by looks
    likeness: Floats
    cosine: Floats

    @classmethod
    def none(cls, count: int) -> "Leaks":
        """Return that nothing leaked."""
        nothing = np.full(count, np.nan, np.float32)
        return cls(np.full(count, -1, np.int64), nothing, nothing.copy(), nothing.copy())


def mark_equal(leaks: Leaks, records: Records, reference: Reference) -> None:
    """Mark the samples whose pixels are those of an image of the set, whatever the file."""
    known: dict[tuple[int, int], int] = {}
    for number, one in enumerate(in_pieces(reference.records, "pixels").tolist()):
        if any(one):
            known.setdefault(tuple(one), number)
    for number, one in enumerate(in_pieces(records, "pixels").tolist()):
        leaks.image[number] = known.get(tuple(one), leaks.image[number])


def mark_alike(
    leaks: Leaks, records: Records, reference: Reference, rule: Rule, engine: Engine, progress: Progress
) -> None:
    """Mark the samples that look like an image of the set; of several, the one that is most alike.

    Flat images count only where all pixels are equal.
    """
    mark_equal(leaks, records, reference)
    leaks.likeness[leaks.image >= 0] = 1.0
    ours, theirs = (_by_hash(one) for one in (records, reference.records))
    pairs = hashes_near(ours[0], theirs[0], rule.distance, engine, progress)
    for start in range(0, len(pairs.one), HASHES):
        images = _spread(pairs.at(slice(start, start + HASHES)), ours[1], theirs[1])
        for at in range(0, len(images.one), PIECE):
            _mark(leaks, records, reference, images.at(slice(at, at + PIECE)), rule)


def mark_near(
    leaks: Leaks,
    rows: Rows,
    numbers: Integers,
    reference: Reference,
    threshold: float,
    engine: Engine,
    progress: Progress,
) -> None:
    """Mark the samples whose features have a cosine of at least `threshold` to those of an image of the set."""
    assert reference.features is not None, "the set was embedded"
    readable = np.flatnonzero(np.isfinite(reference.features).all(1))
    found = features_near(rows, numbers, reference.features[readable], threshold, engine, progress)
    leaks.image[found.one], leaks.cosine[found.one] = readable[found.other], found.value


def _by_hash(records: Records) -> tuple[NDArray[np.uint64], Lists]:
    """Return the different hashes of images that are readable and not flat, and whose they are."""
    usable = np.flatnonzero((in_pieces(records, "state") == READ) & (in_pieces(records, "flat") == 0))
    different, of = np.unique(in_pieces(records, "hash")[usable], return_inverse=True)
    return different, Lists.of(of.astype(np.int64), usable, len(different))


def _spread(pairs: Pairs, ours: Lists, theirs: Lists) -> Pairs:
    """Return the pairs of images that pairs of hashes stand for."""
    found = []
    for one, other, bits in zip(*pairs, strict=True):
        mine, others = ours[one], theirs[other]
        count = len(mine) * len(others)
        found.append(Pairs(np.repeat(mine, len(others)), np.tile(others, len(mine)), np.full(count, bits, np.float32)))
    return Pairs.joined(found)


def _mark(leaks: Leaks, records: Records, reference: Reference, pairs: Pairs, rule: Rule) -> None:
    first, second = records[pairs.one], reference.records[pairs.other]
    value, enough = alike((first["luma"], second["luma"]), (first["chroma"], second["chroma"]), rule)
    for at in np.flatnonzero(enough).tolist():
        number = pairs.one[at]
        if not value[at] <= leaks.likeness[number]:  # NaN: the first
            leaks.image[number], leaks.likeness[number], leaks.distance[number] = (
                pairs.other[at],
                value[at],
                pairs.value[at],
            )
