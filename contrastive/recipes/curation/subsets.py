"""Which samples of a pool several lists choose together, and why the others are left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.hashing import mix
from contrastive.recipes.curation.lists import By, IdList
from contrastive.recipes.curation.names import (
    Integers,
    Lookup,
    Names,
    Progress,
    key_name,
    names_of,
    over_spans,
    place_name,
    repeated,
)
from contrastive.recipes.engine import Engine
from contrastive.recipes.uids import UidsOf

Missing: TypeAlias = Literal["refuse", "drop", "keep"]
KEPT = 0  # the code of the samples that stay


@dataclass
class PoolNames:
    """The names of a pool's samples, of whatever kind lists ask for; each kind is made once."""

    pool: Pool
    storage: Storage
    engine: Engine
    progress: Progress | None = None
    _made: dict[By, Names] = field(default_factory=dict)
    _has_uid: NDArray[np.bool_] | None = None

    def of(self, by: By) -> Names:
        """Return the names of all samples, NAME [N]."""
        if by not in self._made:
            if by == "uid":
                self._read_uids()
            else:
                name = key_name if by == "key" else place_name
                self._made[by] = names_of(self.pool, self.engine, name, self.progress)
        return self._made[by]

    @property
    def has_uid(self) -> NDArray[np.bool_]:
        """Which samples have a uid, bool [N]."""
        self.of("uid")
        assert self._has_uid is not None, "read with the uids"
        return self._has_uid

    def _read_uids(self) -> None:
        read = UidsOf(self.pool, self.storage)
        parts = list(over_spans(self.engine, read, len(self.pool), self.progress))
        self._made["uid"] = np.concatenate([names for names, _ in parts])
        self._has_uid = np.concatenate([held for _, held in parts])


@dataclass
class Subset:
    """What is chosen so far: `reasons[codes[n]]` is why sample n is left out; code KEPT stays."""

    names: PoolNames
    missing: Missing = "refuse"
    reasons: list[str] = field(default_factory=lambda: [""])
    made_of: list[dict[str, Any]] = field(default_factory=list)  # the provenance
    codes: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = np.full(len(self.names.pool), KEPT, np.int32)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which samples stay, bool [N]."""
        stays: NDArray[np.bool_] = self.codes == KEPT
        return stays

    @property
    def numbers(self) -> Integers:
        """The samples that stay, int64 [n]."""
        return np.flatnonzero(self.kept).astype(np.int64)

    @property
    def dropped(self) -> dict[str, int]:
        """How many samples each reason left out, the most frequent first."""
        counts = np.bincount(self.codes, minlength=len(self.reasons)).tolist()
        found = [(reason, count) for reason, count in zip(self.reasons, counts, strict=True) if reason and count]
        return dict(sorted(found, key=lambda pair: -pair[1]))

    def keep(self, chosen: IdList) -> None:
        """Leave out what a list does not keep.

        Raises:
            DataError: the list knows none of the samples, or not all while `missing` refuses; or it names samples by
                keys that stand twice.
        """
        at = self._rows(chosen)
        unknown = at < 0
        count = int(np.count_nonzero(unknown))
        if chosen.judges and count and self.missing == "refuse":
            first = self.names.pool.find(int(np.flatnonzero(unknown)[0])).where
            rule = "is it of other shards? --missing drop leaves such samples out, --missing keep keeps them"
            raise DataError(f"{chosen.file}: does not speak of {count:,} of {len(at):,} samples ({first}); {rule}")
        drops = ~chosen.keeps[np.maximum(at, 0)] & ~unknown
        texts = [reason or f"not in {chosen.label}" for reason in chosen.reasons]
        self._leave_out(drops, texts, chosen.codes[np.maximum(at, 0)])
        if not chosen.judges or self.missing == "drop":
            self._leave_out(unknown, [f"unknown to {chosen.label}" if chosen.judges else f"not in {chosen.label}"])
        self._note("keep", chosen, at)

    def exclude(self, chosen: IdList) -> None:
        """Leave out what a list keeps, or simply lists.

        Raises:
            DataError: see `keep`.
        """
        at = self._rows(chosen)
        self._leave_out((at >= 0) & chosen.keeps[np.maximum(at, 0)], [f"in {chosen.label}"])
        self._note("exclude", chosen, at)

    def draw(self, most: int | float, seed: int) -> None:
        """Keep `most` of what is left (a share of it when it is a float), drawn by a hash of the keys.

        Of one seed a smaller draw is part of a larger one, and shards in another order give the same samples.
        """
        numbers = self.numbers
        count = min(len(numbers), round(most * len(numbers)) if isinstance(most, float) else most)
        hashes = self.names.of("key")[numbers].view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
        order = np.argsort(mix("subset", seed, hashes), kind="stable")
        out = np.zeros(len(self.codes), bool)
        out[numbers[order[count:]]] = True
        self._leave_out(out, ["not drawn"])
        self.made_of.append({"role": "sample", "of": len(numbers), "drawn": count, "seed": seed})

    def _rows(self, chosen: IdList) -> Integers:
        """Return the row of the list that speaks of each sample, int64 [N]; -1 where none does."""
        if chosen.by == "order":
            if len(chosen.keeps) != len(self.codes):
                rule = "it was cut short; make it again"
                raise DataError(f"{chosen.file}: has {len(chosen.keeps):,} rows of {len(self.codes):,} samples; {rule}")
            return np.arange(len(self.codes), dtype=np.int64)
        names = self.names.of(chosen.by)
        lookup = Lookup.of(chosen.names)
        self._refuse_contradictions(chosen, lookup)
        at = lookup.find(names)
        if chosen.by == "uid":
            at = np.where(self.names.has_uid, at, -1)
        if not np.any(at >= 0):
            kind = "uids" if chosen.by == "uid" else "keys"
            rule = "is it of other shards?"
            raise DataError(f"{chosen.file}: none of its {len(chosen.names):,} {kind} is that of a sample; {rule}")
        if chosen.by == "key":
            self._refuse_doubles(chosen, names, at)
        return at

    def _refuse_contradictions(self, chosen: IdList, lookup: Lookup) -> None:
        repeats = lookup.repeats
        firsts = lookup.find(chosen.names[repeats])
        if np.any(chosen.keeps[repeats] != chosen.keeps[firsts]):
            count = np.count_nonzero(chosen.keeps[repeats] != chosen.keeps[firsts])
            raise DataError(f"{chosen.file}: keeps and drops {count:,} samples at once: their names stand twice in it")

    def _refuse_doubles(self, chosen: IdList, names: Names, at: Integers) -> None:
        listed = np.flatnonzero(at >= 0)
        twice = listed[repeated(names[listed])]
        if len(twice):
            key = self.names.pool.find(int(twice[0])).row.key
            rule = "give the list columns shard and row, or make keys unique with contrastive data reshard"
            raise DataError(f"{chosen.file}: speaks of {key!r}, which stands twice in the shards; {rule}")

    def _leave_out(
        self, which: NDArray[np.bool_], texts: Sequence[str], codes: NDArray[np.int32] | None = None
    ) -> None:
        """Note why samples are left out that no list before has left out; `codes` says which of the texts, [N]."""
        which = which & self.kept
        places = np.array([self._code(text) for text in texts], np.int32)
        self.codes[which] = places[0] if codes is None else places[codes[which]]

    def _code(self, text: str) -> int:
        if text not in self.reasons:
            self.reasons.append(text)
        return self.reasons.index(text)

    def _note(self, role: str, chosen: IdList, at: Integers) -> None:
        known = int(np.count_nonzero(at >= 0))
        self.made_of.append({"role": role, **chosen.provenance(), "samples known": known})
