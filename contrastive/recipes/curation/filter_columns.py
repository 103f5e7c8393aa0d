"""A column of a table as one number for each sample of a pool."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.recipes.verdicts import aligned, column

TEXTS = ("key", "shard")  # never numbers, although 00012 looks like one


def values_of(path: Path, name: str, pool: Pool, equals: Any = None) -> NDArray[np.float64]:
    """Return a column of a Parquet or CSV file for each sample of the pool, float64 [N]; NaN where it has no value.

    With `equals`, 1 where the value equals it, and 0 where it does not.

    Raises:
        DataError: the file cannot be read, has no such column or no keys, knows none of the samples, or holds text
            where nothing says what it should equal.
    """
    if path.suffix.lower() == ".csv":
        return _of_csv(path, name, pool, equals)
    at = aligned(path, pool)
    if not (at >= 0).any():
        raise DataError(f"{path}: speaks of none of the {len(pool):,} samples; its column 'key' must hold their keys")
    values = _numbers(column(path, name), path, name, equals)
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)


def _of_csv(path: Path, name: str, pool: Pool, equals: Any) -> NDArray[np.float64]:
    """Read a CSV by way of a Parquet file, in bounded memory."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "table.parquet"
        try:
            _convert(path, made, name)
            return values_of(made, name, pool, equals)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as CSV: {str(error).splitlines()[0]}") from None
        except DataError as error:
            raise DataError(str(error).replace(str(made), str(path))) from None  # the user has not met the other file


def _convert(path: Path, made: Path, name: str) -> None:
    texts = csv.ConvertOptions(column_types=dict.fromkeys(TEXTS, pa.string()))
    with csv.open_csv(path, convert_options=texts) as rows:
        held = [one for one in (*TEXTS, "row", name) if one in rows.schema.names]
        for wanted in ("key", name):
            if wanted not in held:
                raise DataError(f"{path}: has no column {wanted!r}; it has {', '.join(rows.schema.names)}")
        schema = pa.schema([rows.schema.field(one) for one in held])
        with parquet.ParquetWriter(made, schema) as writer:
            for batch in rows:
                writer.write_batch(batch.select(held))


def _equal(value: Any, wanted: Any) -> float:
    is_nothing = value is None or value != value
    return math.nan if is_nothing else float(value == wanted)


def _numbers(raw: NDArray[Any], path: Path, name: str, equals: Any) -> NDArray[np.float64]:
    if equals is not None:
        return np.array([_equal(value, equals) for value in raw.tolist()], np.float64)
    try:
        return raw.astype(np.float64)
    except (ValueError, TypeError):
        raise DataError(f"{path}: its column {name!r} holds {raw.dtype} values, no numbers; set equals") from None
