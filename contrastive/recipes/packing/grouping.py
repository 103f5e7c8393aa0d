"""Which rows of a listing are one sample, and which claim a key that another has: by sorting hashes, then by the keys.

Held are arrays of integers; rows are read only where hashes meet. Rows that follow each other are one row already.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.files import replacing
from contrastive.recipes.packing.listing import RECORD, Listing, Place, is_same
from contrastive.recipes.packing.plan import Numbers
from contrastive.recipes.records import Rejected

TWICE = "key: stands twice"


@dataclass(frozen=True)
class Groups:
    """The samples of a listing: rows `samples`, ascending; the captions of row `others[i]` belong to `owners[i]`.

    `owners` is ascending, and `others` are in the order of the source within an owner.
    """

    samples: Numbers
    owners: Numbers
    others: Numbers

    def others_of(self, samples: Numbers) -> tuple[Numbers, Numbers]:
        """Return the owners and others that concern these samples."""
        starts = np.searchsorted(self.owners, samples)
        counts = np.searchsorted(self.owners, samples, side="right") - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = np.repeat(starts, counts) + within
        return self.owners[chosen], self.others[chosen]


class _First(NamedTuple):
    row: int
    where: str
    image: Place


def grouped(listing: Listing, rejections: Path) -> Groups:
    """Return the samples of a listing; write rows whose key another image has into the file `rejections`."""
    records = np.flatnonzero(listing.array("kinds") == RECORD)
    hashes = np.asarray(listing.array("hashes")[records])
    owners: list[int] = []
    others: list[int] = []
    gone: list[int] = []
    with replacing(rejections) as file:
        for rows in _meetings(records, hashes):
            for row, owner in _judged(listing, rows, file):
                if owner is None:
                    gone.append(row)
                else:
                    owners.append(owner)
                    others.append(row)
    order = np.lexsort((np.array(others, np.int64), np.array(owners, np.int64)))
    kept = np.ones(len(listing.array("kinds")), bool)
    kept[np.array(others, np.int64)] = False
    kept[np.array(gone, np.int64)] = False
    samples = records[kept[records]]
    return Groups(samples, np.array(owners, np.int64)[order], np.array(others, np.int64)[order])


def write_rejection(file: IO[bytes], row: int, rejected: Rejected, rows: int = 1) -> None:
    """Append a rejected row: its number, by which such files are merged, and what is said of it."""
    said = {**rejected._asdict(), **({"rows": rows} if rows > 1 else {})}
    file.write(b"%d\t%b\n" % (row, json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace")))


def _meetings(records: Numbers, hashes: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Yield the rows whose hashes are equal, two or more, each ascending; by their first row, so that reads go on."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(hashes[order]) != 0])) if len(order) else order
    ends = np.append(starts[1:], len(order))
    many = np.flatnonzero(ends - starts > 1)
    for group in many[np.argsort(order[starts[many]], kind="stable")].tolist():
        yield records[order[starts[group] : ends[group]]]


def _judged(listing: Listing, rows: Numbers, file: IO[bytes]) -> Iterator[tuple[int, int | None]]:
    """Yield the rows that are no samples of their own: whose captions they are, None for a rejected one."""
    known: dict[str, _First] = {}
    for number in rows.tolist():
        row = listing.row(number)
        first = known.setdefault(row.key, _First(number, row.where, row.image))
        if first.row == number:
            continue
        if is_same(first.image, row.image):
            yield number, first.row
            continue
        rule = f"{row.where}: its key {row.key!r} stands twice, the first time with another image: {first.where}"
        write_rejection(file, number, Rejected(row.where, row.key, TWICE, rule), row.rows)
        yield number, None
