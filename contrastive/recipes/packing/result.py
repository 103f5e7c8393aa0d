"""What came of a packing: counts, shards, and rejected rows to look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.recipes.packing.finishing import Rejections
from contrastive.recipes.packing.listing import RECORD, Facts, Listing
from contrastive.recipes.packing.making import Contents
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.packing.shards import State
from contrastive.recipes.packing.workplace import provenance
from contrastive.recipes.records import Rejected


class Shown(NamedTuple):
    """A rejected row to look at, with the bytes of its image where they can be read."""

    rejected: Rejected
    caption: str
    image: bytes | None


@dataclass(frozen=True)
class Packed:
    """What was packed. `rejected` are rows of the source by reason; `is_new` is false when all was there already."""

    out: Path
    samples: int
    bytes: int
    rows: int  # of the source
    merged: int  # rows that brought another caption to a sample
    splits: Mapping[str, Mapping[str, Any]]  # by name, "" where there are none: samples, shards by name
    rejected: Mapping[str, int]
    fingerprint: str  # of what was listed
    has_several_captions: bool  # for some image
    kinds: Mapping[str, int]  # images by ending
    is_new: bool = True
    has_changed: bool = False  # the source, while it was packed
    examples: Sequence[Shown] = ()
    seconds: float = 0.0
    resumed: int = 0  # samples of shards that were finished before

    @classmethod
    def of(cls, out: Path) -> "Packed":
        """Return what a finished folder says of itself."""
        said = provenance(out) or {}
        names = (
            *("samples", "bytes", "rows", "merged", "splits", "rejected"),
            *("fingerprint", "has_several_captions", "kinds"),
        )
        return cls(out, **{name: said[name] for name in names}, is_new=False)

    @property
    def shard_count(self) -> int:
        """How many tars there are."""
        return sum(len(split["shards"]) for split in self.splits.values())


def content(
    facts: Facts,
    splits: Mapping[str, Mapping[str, Any]],
    rejections: Rejections,
    states: Mapping[str, State],
    has_several_captions: bool,
) -> dict[str, Any]:
    """Return what is known of the whole, as `Packed` and pack.json say it."""
    kinds = Counter[str]()
    for state in states.values():
        kinds.update(state.kinds)
    samples = sum(split["samples"] for split in splits.values())
    tars = [tar for split in splits.values() for tar in split["shards"].values()]
    return {
        "samples": samples,
        "bytes": sum(tar["bytes"] for tar in tars),
        "rows": facts.seen_rows,
        "merged": facts.seen_rows - samples - rejections.total,
        "splits": dict(splits),
        "rejected": dict(sorted(rejections.counts.items(), key=lambda pair: (-pair[1], pair[0]))),
        "fingerprint": facts.fingerprint,
        "has_several_captions": has_several_captions,
        "kinds": dict(sorted(kinds.items())),
    }


def shown(listing: Listing, rejections: Rejections, how: Packing) -> list[Shown]:
    """Return the first rejected rows of each reason, with their images where these can be read."""
    contents = Contents(listing, Storage(how.storage))
    found = []
    kinds = listing.array("kinds")
    try:
        for row, rejected in (pair for pairs in rejections.examples.values() for pair in pairs):
            caption, image = "", None
            if kinds[row] == RECORD:
                held = listing.row(row)
                caption = held.captions[0] if held.captions else ""
                with suppress(DataError):
                    image = contents.read(held.image)
            found.append(Shown(rejected, caption, image))
    finally:
        contents.close()
    return found
