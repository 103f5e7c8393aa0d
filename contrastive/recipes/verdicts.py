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
from contrastive.recipes.curation.names import NAME, Lookup, Names, key_name, name_of, names_of, place_name
from contrastive.recipes.engine import Local

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
    names, is_exact = _names_in(path)
    known = Lookup.of(names)
    if len(known.repeats):
        what = "shard, row and key" if is_exact else "key"
        raise DataError(f"{path}: {len(known.repeats):,} rows repeat another's {what}; it must be unique")
    found = known.find(names_of(pool, Local(1), place_name if is_exact else key_name))
    numbers = np.flatnonzero(found >= 0)
    twice = numbers[np.bincount(found[numbers], minlength=1)[found[numbers]] > 1]
    if len(twice):
        key = pool.find(int(twice[0])).row.key
        raise DataError(f"{path}: speaks of {key!r}, which stands twice in the shards; add shard and row")
    return found


def _names_in(path: Path) -> tuple[Names, bool]:
    """Return the names of a file's rows, and whether they say the place too, 16 bytes a row."""
    with _opened(path) as file:
        held = file.schema_arrow.names
        if "key" not in held:
            raise DataError(f"{path}: has no column 'key'; it has {', '.join(held)}")
        is_exact = {"shard", "row"} <= set(held)
        columns = ["shard", "row", "key"] if is_exact else ["key"]
        found = np.empty(file.metadata.num_rows, NAME)
        at = 0
        for batch in file.iter_batches(BATCH, columns=columns):
            for parts in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                found[at] = name_of(str(parts[0]).rpartition("/")[2], *parts[1:]) if is_exact else name_of(*parts)
                at += 1
    return found, is_exact


@contextmanager
def _opened(path: Path) -> Iterator[parquet.ParquetFile]:
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as Parquet ({why}); give a verdicts.parquet of a step") from None
