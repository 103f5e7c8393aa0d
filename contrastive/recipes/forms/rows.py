"""Tables of all kinds row by row: CSV, TSV, JSON Lines, JSON and Parquet; a broken row is told and passed over."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from contrastive.errors import DataError
from contrastive.recipes.forms import delimited
from contrastive.recipes.forms.cells import BadRowError, shown
from contrastive.recipes.forms.columns import Row
from contrastive.recipes.forms.json_file import JsonFile
from contrastive.recipes.records import Rejected

TEXT = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
ENDINGS = (*TEXT, *(f"{ending}.gz" for ending in TEXT), ".parquet")
FIRST = 1000  # rows in which the columns of JSON Lines are looked for
BATCH = 128  # rows of Parquet that are held at a time: images may lie in them
UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Rows(Protocol):
    """A table; see `rows_of`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        ...

    @property
    def plain(self) -> tuple[str, ...]:
        """Those that may hold one plain value a row, as far as the file tells."""
        ...

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | Rejected]:
        """Yield every row, of which the `wanted` columns are there."""
        ...


def is_table(name: str) -> bool:
    """Whether a file is a table by its name."""
    return name.lower().endswith(ENDINGS)


def rows_of(path: str, *, delimiter: str | None = None, header: Sequence[str] = (), asked: Sequence[str] = ()) -> Rows:
    """Return a table, whose columns are known.

    `delimiter` and `header` are of CSV: None finds what parts cells, helped by the columns that were `asked` for; a
    file without names in its first line has those of `header`.

    Raises:
        DataError: it cannot be read, or is no table.
        ConfigError: a column stands twice.
    """
    if not is_table(path):
        raise DataError(f"{path}: is no table; it must end in {', '.join(ENDINGS)}")
    ending = os.path.splitext(path.lower().removesuffix(".gz"))[1]
    if ending == ".parquet":
        return Parquet.opened(path)
    if ending == ".json":
        document = JsonFile(path)
        if not document.is_list:
            raise DataError(f"{path}: is no table; a JSON table is a list of objects, or .jsonl with one a line")
        return JsonRows(path, _keys(value for _, value in islice(document.items(), FIRST)), document)
    if ending in (".jsonl", ".ndjson"):
        with opened(path) as lines:
            return JsonRows(path, _keys(_loaded(line) for line in islice(lines, FIRST)))
    sign = "\t" if ending == ".tsv" and delimiter is None and not header else delimiter
    return Delimited.of(path, sign, header, asked)


@contextmanager
def opened(path: str) -> Iterator[Iterator[str]]:
    """Open a text file as lines with their ends; bytes that are no UTF-8 become surrogates.

    Raises:
        DataError: it cannot be opened, or is UTF-16.
    """
    try:
        with gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb") as file:
            if file.peek(2)[:2] in UTF16:
                raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
            with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as lines:
                yield lines
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


@dataclass(frozen=True)
class Delimited:
    """CSV and its kin; `skip` says whether the first line is a header."""

    path: str
    delimiter: str
    columns: tuple[str, ...]
    skip: bool

    @classmethod
    def of(cls, path: str, delimiter: str | None, header: Sequence[str], asked: Sequence[str]) -> "Delimited":
        """Return a table whose first line has been read."""
        with opened(path) as lines:
            first = next((line for line in lines if line.strip()), "")
        if not first:
            raise DataError(f"{path}: holds no row")
        if header:
            sign = delimited.delimiter_of(first, len(header)) if delimiter is None else delimiter
            return cls(path, sign, tuple(header), False)
        sign, names = delimited.header_of(first, path, asked, delimiter)
        return cls(path, sign, tuple(names), True)

    @property
    def plain(self) -> tuple[str, ...]:
        """All columns."""
        return self.columns

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | Rejected]:
        """Yield every row; see `Rows`."""
        places = [(place, name) for place, name in enumerate(self.columns) if name in wanted]
        before = 0
        with opened(self.path) as lines:
            if self.skip:
                before = next(number for number, line in enumerate(lines, 1) if line.strip())
            for number, cells in delimited.rows(lines, self.delimiter, len(self.columns)):
                where = f"{self.path}: line {before + number}"
                if isinstance(cells, BadRowError):
                    yield cells.at(where)
                else:
                    yield Row(where, {name: cells[place].strip() for place, name in places})


@dataclass(frozen=True)
class JsonRows:
    """JSON Lines, or a document that is a list of objects; columns are those of its first rows."""

    path: str
    columns: tuple[str, ...]
    document: JsonFile | None = None

    @property
    def plain(self) -> tuple[str, ...]:
        """All columns."""
        return self.columns

    def rows(self, _wanted: Sequence[str], /) -> Iterator[Row | Rejected]:
        """Yield every row; keys that the first rows did not have are there as well."""
        if self.document is not None:
            for number, (_, value) in enumerate(self.document.items(), 1):
                yield _object(value, f"{self.path}: item {number}")
            return
        with opened(self.path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{self.path}: line {number}"
                    bad = delimited.undecoded(line)
                    yield _object(_loaded(line), where) if bad is None else bad.at(where)


@dataclass(frozen=True)
class Parquet:
    """A Parquet file."""

    path: str
    columns: tuple[str, ...]
    plain: tuple[str, ...]

    @classmethod
    def opened(cls, path: str) -> "Parquet":
        """Return a table whose schema has been read."""
        import pyarrow as pa  # takes 0.2 s, which the other kinds need not wait for
        from pyarrow import parquet

        try:
            schema = parquet.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as Parquet ({_first_line(error)}); copy it again") from None
        held = [(str(one.name), one.type) for one in schema]
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        bulky = {name for name, kind in held if pa.types.is_nested(kind) or any(test(kind) for test in binary)}
        names = tuple(name for name, _ in held)
        return cls(path, names, tuple(name for name in names if name not in bulky))

    def rows(self, wanted: Sequence[str], /) -> Iterator[Row | Rejected]:
        """Yield every row; see `Rows`. Times are as ISO 8601 writes them."""
        import pyarrow as pa
        from pyarrow import parquet

        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(BATCH, columns=list(wanted)):
                    for values in _without_times(pa, batch).to_pylist():
                        number += 1
                        yield Row(f"{self.path}: row {number}", values)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read behind row {number} ({_first_line(error)})") from None


def _without_times(pa: Any, batch: Any) -> Any:
    """Return a batch whose times are texts: those of nanoseconds have no form in Python."""
    for place, one in enumerate(batch.schema):
        if pa.types.is_timestamp(one.type) or pa.types.is_date(one.type) or pa.types.is_time(one.type):
            batch = batch.set_column(place, one.name, batch.column(place).cast(pa.string()))
    return batch


def _keys(values: Iterator[Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for value in values:
        if isinstance(value, dict):
            found.update(dict.fromkeys(value))
    return tuple(found)


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line  # a text is no row either


def _object(value: Any, where: str) -> Row | Rejected:
    if isinstance(value, dict):
        return Row(where, value)
    return BadRowError("row: no JSON object", f"{shown(value)} is no JSON object; write {{column: value, …}}").at(where)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
