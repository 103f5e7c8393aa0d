"""Which samples of a pool are kept, why not, and their scores: one Parquet file, with what made it inside.

A row is a sample of the pool, in its order: `shard` (its location), `row` (in the shard's table), `key`, `kept`,
`reason` (empty where it is kept) and a float column for each score. Any tool that reads Parquet may write one: `key`
and `kept` are enough where keys are unique.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.files import replacing

PROVENANCE = b"contrastive"  # the key of the file's metadata
BATCH = 65_536  # rows that are held at a time


class Verdict(NamedTuple):
    """What a step says of sample `number`: `reason` is empty where it is kept, else one of few, to count by."""

    number: int
    reason: str = ""
    scores: Mapping[str, float] = {}


@dataclass
class Verdicts:
    """Writes verdicts as they come, in order of the samples, and counts them."""

    pool: Pool
    scores: tuple[str, ...]  # the columns; a verdict that lacks one has NaN there
    writer: parquet.ParquetWriter
    counts: Counter[str] = field(default_factory=Counter)
    _waiting: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Take the verdict on the next sample."""
        self.counts[verdict.reason] += 1
        self._waiting.append(verdict)
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        found = [self.pool.find(one.number) for one in self._waiting]
        columns: dict[str, Any] = {
            "shard": pa.array([one.location for one in found]).dictionary_encode(),
            "row": pa.array([one.row.row for one in found], pa.int64()),
            "key": pa.array([one.row.key for one in found], pa.string()),
            "kept": pa.array([not one.reason for one in self._waiting], pa.bool_()),
            "reason": pa.array([one.reason for one in self._waiting], pa.string()).dictionary_encode(),
        }
        for name in self.scores:
            values = [one.scores.get(name, float("nan")) for one in self._waiting]
            columns[name] = pa.array(values, pa.float32())
        self.writer.write_table(pa.table(columns, self.writer.schema))
        self._waiting = []


@contextmanager
def writing_verdicts(
    path: Path, pool: Pool, provenance: Mapping[str, Any], scores: Sequence[str] = ()
) -> Iterator[Verdicts]:
    """Open a file of verdicts that appears when the block ends well; `provenance` is kept inside, as JSON.

    The pool's fingerprint and size are added to it. The same verdicts give the same bytes.
    """
    said = {**provenance, "fingerprint": pool.fingerprint, "samples": len(pool)}
    names = pa.dictionary(pa.int32(), pa.string())
    kinds = [("shard", names), ("row", pa.int64()), ("key", pa.string()), ("kept", pa.bool_()), ("reason", names)]
    schema = pa.schema([*kinds, *((name, pa.float32()) for name in scores)], {PROVENANCE: json.dumps(said).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, ".parquet") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        verdicts = Verdicts(pool, tuple(scores), writer)
        yield verdicts
        verdicts.flush()


def provenance_of(path: Path) -> dict[str, Any]:
    """Return what made a file of verdicts; nothing where another tool wrote it.

    Raises:
        DataError: it is no Parquet file.
    """
    with _opened(path) as file:
        said = (file.schema_arrow.metadata or {}).get(PROVENANCE)
    return json.loads(said) if said else {}


def column(path: Path, name: str) -> NDArray[Any]:
    """Return one column of a file of verdicts, in the order of its rows.

    Raises:
        DataError: it is no Parquet file, or has no such column.
    """
    with _opened(path) as file:
        if name not in file.schema_arrow.names:
            raise DataError(f"{path}: has no column {name!r}; it has {', '.join(file.schema_arrow.names)}")
        found: NDArray[Any] = file.read([name]).column(name).to_numpy()
    return found


def aligned(path: Path, pool: Pool) -> NDArray[np.int64]:
    """Return for each sample of the pool the row of the file that speaks of it, int64 [N]; -1 where none does.

    A file that was made of exactly these samples is in their order. Any other is matched by shard name, row and key; or
    by key alone where it has no shards.

    Raises:
        DataError: it is no Parquet file with keys, or a key stands twice in it or in the pool where keys decide.
    """
    if provenance_of(path).get("fingerprint") == pool.fingerprint:
        return np.arange(len(pool))
    with _opened(path) as file:
        held = set(file.schema_arrow.names)
    exact = {"shard", "row"} <= held
    keys = column(path, "key").tolist()
    if exact:
        shards = [str(one).rpartition("/")[2] for one in column(path, "shard").tolist()]
        names = list(zip(shards, column(path, "row").tolist(), keys, strict=True))
    else:
        names = keys
    known: dict[Any, int] = {name: at for at, name in enumerate(names)}
    if len(known) < len(keys):
        what = "shard, row and key" if exact else "key"
        raise DataError(f"{path}: {len(keys) - len(known):,} rows repeat another's {what}; it must be unique")
    found = np.full(len(pool), -1, np.int64)
    seen: set[int] = set()
    for number in range(len(pool)):
        one = pool.find(number)
        name = (one.location.rpartition("/")[2], one.row.row, one.row.key) if exact else one.row.key
        at = known.get(name, -1)
        if at in seen:
            raise DataError(f"{path}: speaks of {one.row.key!r}, which stands twice in the shards; add shard and row")
        if at >= 0:
            seen.add(at)
        found[number] = at
    return found


def kept(path: Path, pool: Pool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples of the pool the file keeps, and of which it speaks at all, bool [N] each.

    Raises:
        DataError: see `aligned`, or it has no column `kept`.
    """
    at = aligned(path, pool)
    says = column(path, "kept").astype(bool)
    known = at >= 0
    return np.where(known, says[np.maximum(at, 0)] if len(says) else False, False), known


@contextmanager
def _opened(path: Path) -> Iterator[parquet.ParquetFile]:
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as Parquet ({why}); give a verdicts.parquet of a step") from None
