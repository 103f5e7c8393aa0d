"""The folder of a packing: tars under their names, index, sizes, what was rejected, and where all of it comes from."""

import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.entries import write_entries
from contrastive.data.index import Selection
from contrastive.data.sidecars import SIZES, TABLE
from contrastive.errors import DataError
from contrastive.files import replacing, write_whole
from contrastive.recipes.packing.encoding import made_with
from contrastive.recipes.packing.grouping import write_rejection
from contrastive.recipes.packing.listing import REJECTED, Listing
from contrastive.recipes.packing.shards import State, entry_of
from contrastive.recipes.packing.workplace import PROVENANCE
from contrastive.recipes.records import Rejected

REJECTIONS = "rejected.jsonl"
OPEN_FILES = 128
EXAMPLES = 6  # rejected rows of each reason that are shown
TRAINING = Selection(("jpg", "jpeg", "png", "webp"), ("txt", "json"))  # what training reads unless told otherwise


@dataclass
class Rejections:
    """The rows that were rejected: how many, by reason, and the first few of each with their numbers."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, Rejected]]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many rows of the source."""
        return sum(self.counts.values())

    @property
    def first(self) -> list[Rejected]:
        """The first rows of the source among the examples."""
        return [one for _, one in sorted(pair for pairs in self.examples.values() for pair in pairs)]


def write_rejections(path: Path, listing: Listing, files: Sequence[Path]) -> Rejections:
    """Write all rejected rows in the order of the source: those of the listing, and those in `files`."""
    own = path.with_name(f"{path.name}.listed")
    with replacing(own) as file:
        for row in np.flatnonzero(listing.array("kinds") == REJECTED).tolist():
            write_rejection(file, row, listing.rejected(row))
    found = Rejections()
    with replacing(path) as file:
        for row, line in _merged([own, *files]):
            file.write(line)
            said = json.loads(line)
            rejected = Rejected(said["where"], said["key"], said["reason"], said["message"])
            found.counts[rejected.reason] = found.counts.get(rejected.reason, 0) + said.get("rows", 1)
            examples = found.examples.setdefault(rejected.reason, [])
            if len(examples) < EXAMPLES:
                examples.append((row, rejected))
    own.unlink()
    return found


def gather(folder: Path, shards: Sequence[tuple[str, str, State]]) -> dict[str, dict[str, Any]]:
    """Move tars and their indexes into a folder, under their names, with its manifest and sizes; say what they are.

    What was moved before it was killed is there already.

    Raises:
        DataError: a tar does not hold what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = max(5, len(str(max(len(shards) - 1, 0))))
    names = [f"{number:0{width}d}.tar" for number in range(len(shards))]
    entries = {}
    for name, (tar, table, state) in zip(names, shards, strict=True):
        for source, target in ((table, folder / f"{name}{TABLE}"), (tar, folder / name)):
            if os.path.exists(source):
                os.replace(source, target)
        entries[name] = entry = entry_of(state)
        if entry.rows != state.samples or entry.damage or (folder / name).stat().st_size != state.bytes:
            raise DataError(
                f"{folder / name}: {entry.rows:,} of {state.samples:,} samples are in it; is the disk well?"
            )
    write_entries(folder, entries)
    sizes = {
        name: sum(count for pattern, count in entry.patterns.items() if TRAINING.lacks(pattern) is None)
        for name, entry in entries.items()
    }
    write_whole(folder / SIZES, json.dumps(sizes, indent=1) + "\n")
    states = [state for _, _, state in shards]
    return {
        name: {"samples": state.samples, "bytes": state.bytes, "sha256": state.sha256}
        for name, state in zip(names, states, strict=True)
    }


def write_provenance(folder: Path, identity: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Write where the shards of a folder come from, and return it."""
    versions = {"contrastive": _version(), **made_with()}
    said = json.loads(json.dumps({"version": 1, "identity": identity, **content, "versions": versions}, default=str))
    write_whole(folder / PROVENANCE, json.dumps(said, indent=1) + "\n")
    return dict(said)


def _merged(files: Sequence[Path]) -> Iterator[tuple[int, bytes]]:
    """Yield the rejections of several files by their rows; those of one file are in whatever order."""
    found = (line for number, path in enumerate(files) for line in _lines(number, path))
    lines = np.fromiter(found, np.dtype((np.int64, 4)))  # row, file, start, length
    opened: dict[int, int] = {}
    try:
        for row, number, start, length in lines[np.argsort(lines[:, 0], kind="stable")].tolist():
            if number not in opened:
                if len(opened) >= OPEN_FILES:
                    os.close(opened.pop(next(iter(opened))))
                opened[number] = os.open(files[number], os.O_RDONLY | os.O_CLOEXEC)
            yield row, os.pread(opened[number], length, start).partition(b"\t")[2]
    finally:
        for file in opened.values():
            os.close(file)


def _lines(number: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
    start = 0
    with path.open("rb") as file:
        for line in file:
            yield int(line.partition(b"\t")[0]), number, start, len(line)
            start += len(line)


def _version() -> str | None:
    try:
        return importlib.metadata.version("contrastive-pretrain")
    except importlib.metadata.PackageNotFoundError:
        return None
