"""How a source is packed, and what follows from it alone: which sample goes into which split, shard and place."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.data.storage import StorageOptions
from contrastive.errors import ConfigError
from contrastive.hashing import mix

if TYPE_CHECKING:
    from contrastive.recipes.packing.encoding import Encoding

Check: TypeAlias = Literal["none", "header", "decode"]
TRAIN = "train"  # the split of what no other one takes
SPLIT_SEED = 0  # not the seed of the order: a sample stays in its split when the order changes
Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """How samples are packed; all but the last two decide what is in the tars.

    `seed` None keeps the source's order. `splits` are shares of the samples by name, drawn by a hash of the key or of
    the field `split_by`, so that a sample never changes its split; the rest is `train`. With `own_splits` the source
    says it. `encoding` None keeps the bytes of images. `check` is what an image must pass. With `max_rejected` as the
    largest share of rows that cannot be used nothing is published beyond it.
    """

    shard_size: int = 10_000  # samples, at most
    seed: int | None = 0
    splits: Mapping[str, float] = field(default_factory=dict)
    split_by: str | None = None
    own_splits: bool = False
    encoding: "Encoding | None" = None
    check: Check = "header"
    clean_html: bool = False  # of captions: tags are dropped, and &amp; is &
    max_rejected: float = 0.5
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"--shard-size {self.shard_size}: must be at least 1 sample")
        if self.own_splits and (self.splits or self.split_by):
            raise ConfigError("--split source: the source decides; leave out the shares and --split-by")
        if self.split_by and not self.splits:
            raise ConfigError(f"--split-by {self.split_by}: there is no split; give --split val=0.01")
        for name, value in self.splits.items():
            if not name or "/" in name or name.startswith(".") or not name.isprintable():
                raise ConfigError(f"--split {name}={value:g}: its name must be that of a folder")
            if not 0 < value <= 1:
                raise ConfigError(f"--split {name}={value:g}: a share lies above 0 and is at most 1")
        if sum(self.splits.values()) > 1 + 1e-9:
            raise ConfigError(f"--split: the shares sum to {sum(self.splits.values()):g}, more than 1")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the tars, as JSON holds it."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in ("max_rejected", "storage")}


def split_of(how: Packing, hashes: NDArray[np.uint64], names: Sequence[str]) -> tuple[list[str], Numbers]:
    """Return the names of the splits, and for each sample the number of its own.

    `hashes` [N] decide; with `how.own_splits` they are numbers of `names`. Without splits the one name is empty.
    """
    if how.own_splits:
        named = [name or TRAIN for name in names]
        unique = list(dict.fromkeys(named))  # of which an empty name and its `train` are one
        return unique, np.array([unique.index(name) for name in named], np.int64)[hashes.astype(np.int64)]
    if not how.splits:
        return [""], np.zeros(len(hashes), np.int64)
    shares = {name: share for name, share in how.splits.items() if name != TRAIN}  # the rest is train, whatever it says
    drawn = mix("split", SPLIT_SEED, hashes).astype(np.float64) * 2.0**-64
    found = np.searchsorted(np.cumsum(list(shares.values())), drawn, side="right")
    rest = len(shares) if sum(how.splits.values()) < 1 - 1e-9 or TRAIN in how.splits else len(shares) - 1
    return [*shares, TRAIN][: rest + 1], np.minimum(found, rest).astype(np.int64)


def ordered(how: Packing, samples: Numbers, hashes: NDArray[np.uint64]) -> Numbers:
    """Return samples in the order in which they are packed; `hashes` are those of their keys."""
    if how.seed is None:
        return samples
    return samples[np.argsort(mix("pack", how.seed, hashes), kind="stable")]


def cuts(samples: int, shard_size: int) -> list[int]:
    """Return where shards begin, and the end of the last: as few as hold the samples, their sizes one apart at most."""
    count = -(-samples // shard_size)
    return [samples * number // count for number in range(count + 1)] if count else [0]
