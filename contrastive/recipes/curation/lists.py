"""Lists of samples, as curation and other tools write them: verdicts, keys, DataComp's uids.

A Parquet, CSV or JSONL file has a column `key` (or `uid`); `kept` says whether a sample is kept, and without it all
that are listed are; `shard` and `row` tell samples of one key apart. Any other text is one key a line. A list that
cannot be read as a whole is refused: half of it would be another subset.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.files import sha256
from contrastive.recipes.curation.names import NAME, Names, name_of
from contrastive.recipes.forms.cells import printable
from contrastive.recipes.forms.columns import Row
from contrastive.recipes.forms.rows import is_table, opened, rows_of
from contrastive.recipes.records import Rejected
from contrastive.recipes.uids import read_uids, uid_of
from contrastive.recipes.verdicts import BATCH, provenance_of

By: TypeAlias = Literal["order", "place", "key", "uid"]
COLUMNS = ("shard", "row", "key", "uid", "kept", "reason", "location")
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
MOST_REASONS = 1000  # to count by; another tool may have one for every row
Columns: TypeAlias = dict[str, list[Any]]


@dataclass(frozen=True)
class IdList:
    """What a list says. `by` tells what its names are of; `order`: its rows are the samples of a pool, in their order.

    `reasons[codes[i]]` is why row i is not kept. Held are 21 bytes a row.
    """

    file: Path
    by: By
    names: Names
    keeps: NDArray[np.bool_]
    codes: NDArray[np.int32]
    reasons: tuple[str, ...]
    judges: bool  # it speaks of every sample of its pool, also of those that it drops
    says: Mapping[str, Any] = field(default_factory=dict)  # of itself

    @property
    def label(self) -> str:
        """What to call it in a few words: verdicts all have one file name, and are told apart by their folders."""
        parent = self.file.resolve().parent.name
        return f"{parent}/{self.file.name}" if self.file.stem in ("verdicts", "scores") else self.file.name

    def provenance(self) -> dict[str, Any]:
        """Return what a subset made of this list should say of it."""
        kept = int(np.count_nonzero(self.keeps))
        facts = {"file": self.label, "sha256": sha256(self.file), "by": self.by, "rows": len(self.keeps), "kept": kept}
        return {**facts, "says": dict(self.says)} if self.says else facts


def read_list(path: Path, fingerprint: str, wanted: Literal["any", "uid"] = "any") -> IdList:
    """Return a list; one that was written of the samples with this `fingerprint` is taken in their order.

    Raises:
        DataError: it is missing, broken, empty, or has neither keys nor uids.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a list of samples (.parquet, .npy, .csv, .jsonl, or keys by line)")
    if path.suffix.lower() == ".npy":
        names = read_uids(path)
        _refuse_empty(path, len(names))
        return IdList(path, "uid", names, np.ones(len(names), bool), np.zeros(len(names), np.int32), ("",), False)
    says = provenance_of(path) if path.suffix.lower() == ".parquet" else {}
    in_order = wanted == "any" and says.get("fingerprint") == fingerprint
    gathered = _Rows(path, wanted, in_order)
    for columns in _batches(path):
        gathered.add(columns)
    return gathered.result(says)


@dataclass
class _Rows:
    """Gathers the rows of a list."""

    path: Path
    wanted: str
    in_order: bool
    by: By | None = None
    judges: bool = False
    names: list[Names] = field(default_factory=list)
    keeps: list[NDArray[np.bool_]] = field(default_factory=list)
    codes: list[NDArray[np.int32]] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=lambda: {"": 0})

    def add(self, columns: Columns) -> None:
        """Take in a batch of rows."""
        if self.by is None:
            self.by, self.judges = self._by(columns), "kept" in columns
        if self.by == "order":
            rows = len(columns["kept"])
        else:
            self.names.append(np.array(list(self._named(columns)), NAME))
            rows = len(self.names[-1])
        kept = columns.get("kept")
        self.keeps.append(np.ones(rows, bool) if kept is None else np.array([self._truth(one) for one in kept], bool))
        self.codes.append(np.fromiter(map(self._code, columns.get("reason") or [""] * rows), np.int32, rows))

    def result(self, says: Mapping[str, Any]) -> IdList:
        """Return the list."""
        _refuse_empty(self.path, sum(map(len, self.keeps)))
        assert self.by is not None, "there are rows"
        names = np.concatenate(self.names) if self.names else np.empty(0, NAME)
        keeps, codes = np.concatenate(self.keeps), np.concatenate(self.codes)
        return IdList(self.path, self.by, names, keeps, codes, tuple(self.known), self.judges, says)

    def _by(self, columns: Columns) -> By:
        if self.wanted == "uid" or ("key" not in columns and "uid" in columns):
            if "uid" not in columns:
                raise DataError(f"{self.path}: has no column uid; it has {', '.join(columns) or 'none that is known'}")
            return "uid"
        if "key" not in columns:
            rule = "a list has a column key or uid, and may have kept, reason, shard and row"
            raise DataError(f"{self.path}: has no column key; {rule}")
        if self.in_order and "kept" in columns:
            return "order"
        return "place" if "row" in columns and ("shard" in columns or "location" in columns) else "key"

    def _named(self, columns: Columns) -> Iterator[bytes]:
        if self.by == "uid":
            return (self._uid(one) for one in columns["uid"])
        if self.by == "key":
            return map(name_of, columns["key"])
        shards = columns.get("shard") or columns["location"]
        places = zip(shards, columns["row"], columns["key"], strict=True)
        return (name_of(str(shard).rpartition("/")[2], row, key) for shard, row, key in places)

    def _code(self, reason: Any) -> int:
        text = str(reason or "")
        if len(self.known) == MOST_REASONS:
            return self.known.get(text, 0)
        return self.known.setdefault(text, len(self.known))

    def _uid(self, value: Any) -> bytes:
        name = uid_of({"uid": value})
        if name is None:
            raise DataError(f"{self.path}: {str(value)[:60]!r} is no uid, which has 32 hexadecimal digits")
        return name

    def _truth(self, value: Any) -> bool:
        found = value if isinstance(value, bool) else TRUTHS.get(str(value).strip().lower())
        if found is None:
            raise DataError(f"{self.path}: kept is {str(value)[:60]!r} in a row; it must be true or false")
        return bool(found)


def _refuse_empty(path: Path, rows: int) -> None:
    if not rows:
        raise DataError(f"{path}: lists no sample")


def _batches(path: Path) -> Iterator[Columns]:
    """Yield the rows of a list in batches, by column; all of one file have the same columns."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    rows: Iterator[Mapping[str, Any]]
    if is_table(path.name):
        table = rows_of(str(path), asked=COLUMNS)
        names = [name for name in COLUMNS if name in table.columns]
        rows = map(_whole, table.rows(names))
    else:
        names, rows = ["key"], _keys(path)
    while batch := list(islice(rows, BATCH)):
        yield {name: [row.get(name) for row in batch] for name in names}


def _parquet(path: Path) -> Iterator[Columns]:
    try:
        with parquet.ParquetFile(path) as file:
            held = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH, columns=held):
                yield {name: batch.column(name).to_pylist() for name in held}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def _whole(row: Row | Rejected) -> Mapping[str, Any]:
    if isinstance(row, Rejected):
        raise DataError(f"{row.message}; a list must be whole")
    return row.values


def _keys(path: Path) -> Iterator[Mapping[str, Any]]:
    with opened(str(path)) as lines:
        for number, line in enumerate(lines, 1):
            if printable(line) != line:
                raise DataError(f"{path}: line {number} is no UTF-8 text")
            if key := line.strip():
                yield {"key": key}
