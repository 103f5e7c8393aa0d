"""CSV, TSV, JSON Lines and Parquet files as columns, with the lines in which rows stand."""

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from contrastive.errors import DataError
from contrastive.eval.formats.columns import Rows
from contrastive.eval.formats.json_file import read_json_lines

DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (*DELIMITERS, ".jsonl", ".parquet")


def read_rows(path: Path, wanted: Collection[str]) -> Rows:
    """Return those columns of a table that are wanted and there; other columns are not held.

    An empty cell of a CSV is "", a missing value elsewhere None.

    Raises:
        DataError: not such a file, damaged, or without a row.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path}: is no table; it must end in {', '.join(ENDINGS)}")
    if ending in DELIMITERS:
        rows = _read_csv(path, DELIMITERS[ending], wanted)
    else:
        rows = _read_json_lines(path, wanted) if ending == ".jsonl" else _read_parquet(path, wanted)
    if not rows.numbers:
        raise DataError(f"{path}: has no row; write one for each image")
    return rows


def _read_csv(path: Path, delimiter: str, wanted: Collection[str]) -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                return _csv_rows(path, reader, wanted)
            except csv.Error as error:
                rule = "a text that holds quotes must be quoted and its quotes doubled"
                raise DataError(f"{path}: line {reader.line_num}: {error}; {rule}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def _csv_rows(path: Path, reader: Any, wanted: Collection[str]) -> Rows:
    header: list[str] = next(reader, [])
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: line 1: column {name!r} stands twice; rename one of them")
    kept = [(place, name) for place, name in enumerate(header) if name in wanted]
    cells: list[list[str]] = []
    numbers: list[int] = []
    line = reader.line_num + 1  # a quoted cell may take several lines; the first one names the row
    for row in reader:
        if row:
            if len(row) != len(header):
                rule = f"it must have {len(header)} like line 1; quote cells that hold the separator"
                raise DataError(f"{path}: line {line}: has {len(row)} cells; {rule}")
            cells.append(row)
            numbers.append(line)
        line = reader.line_num + 1
    columns = {name: [row[place] for row in cells] for place, name in kept}
    return Rows(str(path), "line", numbers, columns, tuple(header))


def _read_json_lines(path: Path, wanted: Collection[str]) -> Rows:
    numbers, records = [], []
    present: dict[str, None] = {}
    for number, record in read_json_lines(path):
        present.update(dict.fromkeys(record))
        numbers.append(number)
        records.append({name: value for name, value in record.items() if name in wanted})
    columns = {name: [record.get(name) for record in records] for name in present if name in wanted}
    return Rows(str(path), "line", numbers, columns, tuple(present))


def _read_parquet(path: Path, wanted: Collection[str]) -> Rows:
    import pyarrow as pa  # takes 0.2 s, which the other layouts need not wait for
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            present = tuple(file.schema_arrow.names)
            table = file.read([name for name in present if name in wanted])
            count = file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); copy it again") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Rows(str(path), "row", range(1, count + 1), columns, present)
