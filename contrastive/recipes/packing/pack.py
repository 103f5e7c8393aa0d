"""Records of any source to equal, shuffled, indexed shards: the same input gives the same bytes, whatever happens.

All work is done beside OUT, in steps that are taken up again after a kill: the rows are listed, rows of one sample are
found, every shard is written by a process of the engine, shards are made equal where rows were rejected, and the folder
gets its name. `contrastive data pack` is this over a form of sources; `reshard` and others over shards.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.errors import DataError
from contrastive.recipes.engine import Engine
from contrastive.recipes.packing import finishing, shards
from contrastive.recipes.packing.finishing import Rejections, write_rejections
from contrastive.recipes.packing.grouping import Groups, grouped
from contrastive.recipes.packing.levelling import level
from contrastive.recipes.packing.listing import Facts, Listing, write_listing
from contrastive.recipes.packing.pace import Pace
from contrastive.recipes.packing.plan import Packing, cuts, ordered, split_of
from contrastive.recipes.packing.result import Packed, Shown, content, shown
from contrastive.recipes.packing.shards import Job, ShardWriter, State
from contrastive.recipes.packing.space import DiskFullError, missing_room, size, told_when_full
from contrastive.recipes.packing.workplace import LISTING, publish, working
from contrastive.recipes.records import Record, Rejected

__all__ = ["Packed", "Packing", "Shown", "pack"]
log = logging.getLogger("contrastive")
Progress = Callable[[int, int], None]  # samples done, of how many
PACKED, REFUSED = "packed", "refused"  # files that say how far the work is


def pack(
    records: Iterable[Record | Rejected],
    out: Path,
    how: Packing,
    engine: Engine,
    *,
    identity: Mapping[str, Any],
    progress: Progress | None = None,
    state: Callable[[], str] | None = None,
    restart: bool = False,
) -> Packed:
    """Pack records into `out`, and return what is there then; where it was finished before, nothing is done.

    `identity` says what is packed, as JSON holds it: work of another one is neither taken up nor replaced, unless
    `restart` throws away what it left unfinished. `records` are only read while no whole listing of them is there, or
    when `state`, which tells what the source looks like, has changed since. `progress` is told the samples that are
    done, and all; without it lines are logged.

    Raises:
        DataError: `out` holds something else, is being packed, or the disk is full; the source has no rows, or too many
            of them cannot be used. What was done stays, to go on from.
    """
    begin, out = time.monotonic(), Path(out).expanduser().resolve()
    said = {**identity, "packing": how.identity}
    try:
        with working(out, said, restart) as folder:
            if folder is None:
                return Packed.of(out)
            work = _Work(folder, how, engine, progress, state or (lambda: ""))
            with told_when_full(str(folder)):
                packed = work.run(records, out, said)
            publish(folder / "whole", out)
            return replace(packed, seconds=time.monotonic() - begin)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise DataError(f"--out {out}: {what}{error.strerror or error}; mend it, and run the command again") from error


@dataclass
class _Split:
    """The shards of one split as they are packed: the paths of their tars, without an ending."""

    name: str
    bases: list[str] = field(default_factory=list)


@dataclass
class _Work:
    folder: Path
    how: Packing
    engine: Engine
    progress: Progress | None
    state: Callable[[], str]

    def run(self, records: Iterable[Record | Rejected], out: Path, identity: Mapping[str, Any]) -> Packed:
        """Do all that is not done, and leave the folder `whole`."""
        for path in self.folder.rglob(".*-*"):  # drafts of a process that was killed
            path.unlink()
        listing = self._listed(records, out)
        groups = grouped(listing, self.folder / "twice.rejected")
        splits, jobs = self._planned(listing, groups)
        resumed = self._write_shards(listing, groups, jobs)
        states = {job.base: state for job in jobs if (state := State.load(job.base)) is not None}
        files = [self.folder / "twice.rejected", *(Path(job.base + shards.REJECTIONS) for job in jobs)]
        rejections = write_rejections(self.folder / finishing.REJECTIONS, listing, files)
        examples = shown(listing, rejections, self.how)
        self._refuse_waste(rejections, listing.facts, sum(one.samples for one in states.values()), out)
        (self.folder / PACKED).touch()
        found = {split.name: self._gathered(split, states) for split in splits}
        said = content(listing.facts, found, rejections, states, _has_several_captions(listing, groups))
        whole = self.folder / "whole"
        shutil.copy(self.folder / finishing.REJECTIONS, whole / finishing.REJECTIONS)
        finishing.write_provenance(whole, identity, said)
        has_changed = listing.facts.state != self.state()
        return Packed(out, **said, examples=examples, has_changed=has_changed, resumed=resumed)

    def _listed(self, records: Iterable[Record | Rejected], out: Path) -> Listing:
        """Return the listing of the source, from before where it still holds."""
        place, known = self.folder / LISTING, Listing.open(self.folder / LISTING)
        is_refused = (self.folder / REFUSED).exists()
        if known is not None and ((self.folder / PACKED).exists() or not (is_refused or self._is_stale(known))):
            return known
        draft = self.folder / "listing.draft"
        with Pace("listing rows", "rows") as line:
            write_listing(records, draft, self.how, self.state(), line)
        fresh = Listing.open(draft)
        assert fresh is not None, "it was just written"
        if known is None or fresh.facts.fingerprint != known.facts.fingerprint:
            if known is not None:
                log.warning("--out %s: the source has changed since it was begun; it is packed anew", out)
            shutil.rmtree(self.folder / "shards", ignore_errors=True)
        elif is_refused:
            self._forget_rejecting()
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        (self.folder / REFUSED).unlink(missing_ok=True)
        return Listing(place, fresh.facts)

    def _is_stale(self, known: Listing) -> bool:
        return known.facts.state != self.state()

    def _forget_rejecting(self) -> None:
        """Have shards written again in which rows were rejected: the source may have been mended."""
        for path in (self.folder / "shards").rglob(f"*{shards.STATE}"):
            found = State.load(str(path.with_suffix("")))
            if found is not None and found.rejected:
                path.unlink()

    def _planned(self, listing: Listing, groups: Groups) -> tuple[list[_Split], list[Job]]:
        """Return the splits, and the shards of all of them."""
        hashes = np.asarray(listing.array("hashes")[groups.samples])
        deciding = hashes
        if self.how.own_splits or self.how.split_by is not None:
            deciding = np.asarray(listing.array("splits")[groups.samples])
        names, numbers = split_of(self.how, deciding, listing.facts.splits)
        splits, jobs = [], []
        for number, name in enumerate(names):
            own = numbers == number
            samples = ordered(self.how, groups.samples[own], hashes[own])
            if not len(samples):
                log.warning("--split %s: no sample falls into it", name)
                continue
            splits.append(_Split(name))
            bounds = cuts(len(samples), self.how.shard_size)
            for at, (start, stop) in enumerate(pairwise(bounds)):
                base = str(self.folder / "shards" / name / f"{at:05d}")
                splits[-1].bases.append(base)
                jobs.append(Job(base, samples[start:stop], *groups.others_of(samples[start:stop])))
        return splits, jobs

    def _write_shards(self, listing: Listing, groups: Groups, jobs: Sequence[Job]) -> int:
        """Write the shards that are not written; return how many samples were there before."""
        done = [job for job in jobs if State.load(job.base) is not None]
        left = [job for job in jobs if State.load(job.base) is None]
        resumed, samples = sum(len(job.samples) for job in done), len(groups.samples)
        if done:
            log.info("%s of %s samples are packed already", f"{resumed:,}", f"{samples:,}")
        is_slow = self.how.encoding is not None or self.how.check == "decode"
        threads = max(1, self.engine.processes // max(len(left), 1)) if is_slow else 1
        running: dict[str, None] = {}
        count, written, is_warned = resumed, 0, False
        with Pace("packing", "samples", samples, resumed, self.progress, lambda: shards.noted(list(running))) as line:
            writer = ShardWriter(listing, self.how, threads)
            try:
                for job, state in zip(left, self.engine.map(writer, _noting(left, running)), strict=True):
                    running.pop(job.base, None)
                    count, written = count + len(job.samples), written + state.bytes
                    line(count, samples)
                    is_warned = is_warned or self._warn_of_room(samples - count, count - resumed, written)
            except DiskFullError as error:
                needed, _ = missing_room(self.folder, samples - resumed, count - resumed, written)
                more = f", about {size(needed)} are needed" if needed else ""
                raise DiskFullError(error.path, error.said, more) from error
        return resumed

    def _warn_of_room(self, left: int, packed: int, written: int) -> bool:
        needed, free = missing_room(self.folder, left + packed, packed, written)
        if needed > free:
            log.warning("%s: about %s are needed, and %s are free", self.folder.parent, size(needed), size(free))
        return needed > free

    def _refuse_waste(self, rejections: Rejections, facts: Facts, samples: int, out: Path) -> None:
        share = rejections.total / facts.seen_rows
        if samples and share <= self.how.max_rejected:
            return
        (self.folder / REFUSED).touch()
        first = "; ".join(one.message for one in rejections.first[:3])
        most = f", more than --max-rejected {self.how.max_rejected:g}" if samples else ""
        listed = self.folder / finishing.REJECTIONS
        raise DataError(
            f"--out {out}: {rejections.total:,} of {facts.seen_rows:,} rows cannot be used{most}, so nothing is there "
            f"yet: {first} (all: {listed}); mend the source, and run the command again"
        )

    def _gathered(self, split: _Split, states: Mapping[str, State]) -> dict[str, Any]:
        """Make the shards of a split equal, and move them into the folder `whole`; return what they are."""
        target = self.folder / "levelled" / split.name
        found = level(
            split.bases,
            [states[base] for base in split.bases],
            str(target),
            shard_size=self.how.shard_size,
            keeps_order=self.how.seed is None,
            engine=self.engine,
        )
        named = finishing.gather(self.folder / "whole" / split.name, found)
        return {"samples": sum(one["samples"] for one in named.values()), "shards": named}


def _has_several_captions(listing: Listing, groups: Groups) -> bool:
    return bool(listing.facts.several or len(groups.owners))


def _noting(jobs: Iterable[Job], running: dict[str, None]) -> Iterator[Job]:
    """Yield jobs as an engine takes them, and note which it has."""
    for job in jobs:
        running[job.base] = None
        yield job
