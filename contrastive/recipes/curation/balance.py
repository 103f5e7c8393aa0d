"""Captions spread more evenly over a list of entries: MetaCLIP's curation, with draws that depend on nothing else.

Xu et al. 2023, "Demystifying CLIP Data", https://arxiv.org/abs/2309.16671, Algorithm 1, written from the paper. An
entry matches a caption where its words stand in it, with blanks around marks of punctuation. A sample is kept if any of
its entries draws it, each with the probability min(1, t / samples that the entry matches): entries of the tail keep
all, those of the head about `t`. Draws are hashes of (seed, key, entry), so that the order of samples, their shards and
the number of processes change nothing, and a larger `t` keeps what a smaller one kept.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.hashing import mix
from contrastive.recipes.curation.filter_text import Phrases, spaced
from contrastive.recipes.curation.passes import Columns, Numbers
from contrastive.recipes.samples import Sample

NO_ENTRY, NOT_DRAWN = "no entry matches", "not drawn: its entries are frequent"
SCORES = ("entries", "keep_probability")


@dataclass(frozen=True)
class Matching:
    """Finds the entries in the captions of samples; an entry counts once for a sample, in whichever of its captions."""

    entries: Phrases

    def __call__(self, reader: Reader, numbers: Numbers) -> Columns:
        """Return the entries that match in each of B samples.

        `key`: a hash, uint64 [B]; `count`: how many match, int32 [B]; `entry`: which, int32 [sum of counts]; `reason`:
        why no caption can be read, text [B], else empty.
        """
        keys, counts, found, reasons = [], [], [], []
        for number in numbers.tolist():
            sample, matched, reason = Sample(reader, number), set[int](), ""
            try:
                for caption in sample.captions:
                    matched.update(self.entries.found(spaced(caption)))
            except BadSampleError as error:
                reason = error.reason
            keys.append(name_hash(sample.key))
            counts.append(len(matched))
            found.extend(sorted(matched))
            reasons.append(reason)
        return {
            "key": np.array(keys, np.uint64),
            "count": np.array(counts, np.int32),
            "entry": np.array(found, np.int32),
            "reason": np.array(reasons, np.str_),
        }


class Drawn(NamedTuple):
    """What became of B samples: `is_kept`, bool [B], and the probability of it, float64 [B]."""

    is_kept: NDArray[np.bool_]
    probability: NDArray[np.float64]


class Draws:
    """Draws samples by the probability of their entries, float64 [E]; an entry is known by its text, not its place."""

    def __init__(self, names: Sequence[str], probability: NDArray[np.float64], seed: int) -> None:
        self.probability, self.seed = probability, seed
        self._hashes = np.array([name_hash(name) for name in names], np.uint64)

    def __call__(self, found: Columns) -> Drawn:
        """Return which of the samples are kept; `found` is of `Matching`."""
        entry, samples = found["entry"], len(found["count"])
        owner = np.repeat(np.arange(samples), found["count"])  # [M]
        draw = mix("balance", self.seed, found["key"][owner], self._hashes[entry])  # [M]
        chance = self.probability[entry]
        passes = (draw >> np.uint64(11)).astype(np.float64) * 2.0**-53 < chance
        is_kept = np.zeros(samples, bool)
        is_kept[owner[passes]] = True
        with np.errstate(divide="ignore"):  # log of 0: kept for sure
            missed = np.bincount(owner, np.log1p(-chance), samples)
        return Drawn(is_kept, -np.expm1(missed))


def probabilities(counts: NDArray[np.int64], t: int) -> NDArray[np.float64]:
    """Return the probability with which each entry keeps a sample that it matches: min(1, t / count), float64 [E]."""
    return t / np.maximum(counts, t)


def tail_threshold(counts: NDArray[np.int64], share: float) -> int:
    """Return the least t such that entries with at most t samples hold at least `share` of all matches.

    MetaCLIP 2 gives each language its own t by holding such a share equal (Chuang et al. 2025,
    https://arxiv.org/abs/2507.22062).

    Raises:
        DataError: no entry matches any sample.
    """
    ranked = np.sort(counts[counts > 0])
    if not len(ranked):
        raise DataError("balance: no entry matches any caption; is the list of the captions' language?")
    held = np.cumsum(ranked)
    return int(ranked[np.searchsorted(held, share * held[-1])])


def name_hash(name: str) -> int:
    """Return a 64-bit hash of a key or an entry."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
