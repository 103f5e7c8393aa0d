"""Shards equal again after rows were rejected: their last samples move, or with the source's order all of them shift.

Nothing is lost whenever it is killed: a tar grows behind its recorded end, by samples that their old tars still hold;
these are cut only when every other one has what it gets.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.data.sidecars import TABLE
from contrastive.errors import DataError
from contrastive.files import replacing, sha256
from contrastive.recipes.engine import Engine
from contrastive.recipes.packing.plan import cuts
from contrastive.recipes.packing.shards import ENDS, TAR, State, indexed
from contrastive.recipes.packing.space import told_when_full
from contrastive.recipes.packing.tars import closing

CHUNK = 8 << 20  # bytes that are copied at once


class Piece(NamedTuple):
    """Samples [first, last) of a tar as it was packed."""

    shard: int
    first: int
    last: int


class Change(NamedTuple):
    """A tar that has to become other than it was packed: first its own samples, where it keeps some, then others'."""

    shard: int
    pieces: tuple[Piece, ...]

    @property
    def grows(self) -> bool:
        """Whether it gets samples of others."""
        return any(piece.shard != self.shard for piece in self.pieces)


def moves(counts: Sequence[int], shard_size: int) -> list[Change]:
    """Return which shards change so that as few as hold the samples are left, of sizes that are one apart at most.

    `counts` are their samples. Shards that have too many give their last ones to those that have too few, in order;
    surplus shards at the end give all. The fewest samples move that can.
    """
    sizes = np.diff(cuts(sum(counts), shard_size)).tolist()
    richest = sorted(range(len(sizes)), key=lambda shard: -counts[shard])  # stable: equal ones in order
    wanted = [0] * len(counts)
    for shard, amount in zip(richest, sorted(sizes, reverse=True), strict=True):
        wanted[shard] = amount
    spare = [Piece(shard, want, count) for shard, (count, want) in enumerate(zip(counts, wanted, strict=True))]
    giving = _dealt([piece for piece in spare if piece.last > piece.first])
    changes = []
    for shard, (count, want) in enumerate(zip(counts, wanted, strict=True)):
        if count != want:
            own = (Piece(shard, 0, min(count, want)),) if min(count, want) else ()
            changes.append(Change(shard, (*own, *(giving(want - count) if want > count else ()))))
    return changes


def shifts(counts: Sequence[int], shard_size: int) -> list[Change]:
    """Return what each shard is made of when the samples keep their order; nothing where all stay as they are."""
    sizes = np.diff(cuts(sum(counts), shard_size)).tolist()
    if sizes == list(counts):
        return []
    taken = _dealt([Piece(shard, 0, count) for shard, count in enumerate(counts) if count])
    return [Change(shard, tuple(taken(size))) for shard, size in enumerate(sizes)]


@dataclass(frozen=True)
class Leveller:
    """Makes the tars of changes; `bases` are the paths of the shards as they were packed, without an ending.

    A changed shard has its new state, and where the order is kept its tar too, in the folder `target`, under its name.
    """

    bases: tuple[str, ...]
    target: str
    is_in_place: bool

    def base(self, shard: int) -> str:
        """Return where the tar of a shard is once it has changed, without its ending."""
        return f"{self.target}/{os.path.basename(self.bases[shard])}"

    def __call__(self, change: Change) -> State:
        """Return the new state of a shard."""
        base = self.base(change.shard)
        known = State.load(base)
        if known is not None:
            return known
        with told_when_full(base + TAR):
            tar = self._in_place(change) if self.is_in_place else self._anew(change)
            return self._seal(change, tar)

    def _in_place(self, change: Change) -> str:
        base = self.bases[change.shard]
        own = [piece for piece in change.pieces if piece.shard == change.shard]
        with open(base + TAR, "r+b") as file:
            file.truncate(int(self._ends(change.shard)[own[0].last - 1]) if own else 0)
            file.seek(0, os.SEEK_END)
            self._append(file, [piece for piece in change.pieces if piece.shard != change.shard])
        return base

    def _anew(self, change: Change) -> str:
        base = self.base(change.shard)
        with replacing(Path(base + TAR), TAR) as file:
            self._append(file, change.pieces)
        return base

    def _append(self, file: IO[bytes], pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            ends = self._ends(piece.shard)
            start = int(ends[piece.first - 1]) if piece.first else 0
            with open(self.bases[piece.shard] + TAR, "rb") as source:
                source.seek(start)
                _copy(source, file, int(ends[piece.last - 1]) - start)
        file.write(closing(file.tell()))

    def _seal(self, change: Change, base: str) -> State:
        samples = sum(piece.last - piece.first for piece in change.pieces)
        entry = indexed(base)
        if base != (target := self.base(change.shard)):
            os.replace(f"{base}{TAR}{TABLE}", f"{target}{TAR}{TABLE}")
        whole = os.path.getsize(base + TAR)
        state = State(samples, -1, whole, sha256(Path(base + TAR)), entry)
        state.save(target)
        return state

    def _ends(self, shard: int) -> NDArray[np.int64]:
        return np.load(self.bases[shard] + ENDS, mmap_mode="r")  # type: ignore[no-any-return]


def level(
    bases: Sequence[str], states: Sequence[State], target: str, *, shard_size: int, keeps_order: bool, engine: Engine
) -> list[tuple[str, str, State]]:
    """Make shards equal again; return, for each that is left, the path of its tar, of its index, and its state.

    What was done before it was killed is not done again.
    """
    counts = [state.samples for state in states]
    changes = (shifts if keeps_order else moves)(counts, shard_size)
    if not changes:
        return [(f"{base}{TAR}", f"{base}{TAR}{TABLE}", state) for base, state in zip(bases, states, strict=True)]
    os.makedirs(target, exist_ok=True)
    leveller = Leveller(tuple(bases), target, not keeps_order)
    if keeps_order:
        new = [leveller.base(shard) for shard, _ in enumerate(changes)]
        kept = list(_shifted(changes, leveller, counts, engine))
        return [(f"{base}{TAR}", f"{base}{TAR}{TABLE}", state) for base, state in zip(new, kept, strict=True)]
    found = dict(enumerate(states)) | {change.shard: None for change in changes if not change.pieces}
    # All that grow before the first that shrinks: what they get is still there when they have to begin again.
    for some in ([one for one in changes if one.grows], [one for one in changes if one.pieces and not one.grows]):
        found.update(zip([one.shard for one in some], engine.map(leveller, some), strict=True))
    changed = {change.shard for change in changes}
    tables = [f"{leveller.base(n) if n in changed else base}{TAR}{TABLE}" for n, base in enumerate(bases)]
    return [(f"{bases[n]}{TAR}", tables[n], state) for n, state in sorted(found.items()) if state is not None]


def _shifted(changes: Sequence[Change], leveller: Leveller, counts: Sequence[int], engine: Engine) -> Iterator[State]:
    """Yield the new states of shards in order, and remove old tars once nothing of theirs is needed."""
    removed = 0
    for change, state in zip(changes, engine.map(leveller, changes), strict=True):
        yield state
        last = change.pieces[-1]
        until = last.shard + (last.last == counts[last.shard])
        for shard in range(removed, until):
            Path(leveller.bases[shard] + TAR).unlink(missing_ok=True)
        removed = max(removed, until)


def _dealt(pieces: Sequence[Piece]) -> Callable[[int], Iterator[Piece]]:
    """Return what deals so many samples at a time, in order, as pieces."""
    rest = deque(pieces)

    def deal(samples: int) -> Iterator[Piece]:
        while samples:
            piece = rest.popleft()
            taken = min(samples, piece.last - piece.first)
            yield piece._replace(last=piece.first + taken)
            samples -= taken
            if piece.first + taken < piece.last:
                rest.appendleft(piece._replace(first=piece.first + taken))

    return deal


def _copy(source: BinaryIO, target: IO[bytes], count: int) -> None:
    while count:
        content = source.read(min(count, CHUNK))
        if not content:
            raise DataError(f"{source.name}: is shorter than it was; was it changed while it was packed?")
        target.write(content)
        count -= len(content)
