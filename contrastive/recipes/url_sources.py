"""The forms in which lists of images on the web are published, row by row and in bounded memory."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.recipes.records import Rejected
from contrastive.recipes.url_lists import Batch, Item

BATCH = 65_536  # rows that are held at a time
# Columns that img2dataset writes itself: one of the source that is called so is renamed.
RESERVED = ("key", "width", "height", "original_width", "original_height", "status", "error_message", "exif", "md5",
            "sha256", "sha512")  # fmt: skip
HASH = "source_sha256"  # what a column sha256 of the source is called in a list


def in_batches(rows: Iterable[Mapping[str, Any] | Rejected], kinds: Mapping[str, Any]) -> Iterator[Item]:
    """Yield rows in batches of pyarrow, and what is rejected in its place; `kinds` are the columns' types."""
    schema, held = pa.schema(list(kinds.items())), []
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        held.append(row)
        if len(held) >= BATCH:
            yield pa.RecordBatch.from_pylist(held, schema)
            held = []
    if held:
        yield pa.RecordBatch.from_pylist(held, schema)


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading; one that ends in .gz is unpacked on the way.

    Raises:
        DataError: there is no such file.
    """
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); --help says where the list comes from") from None


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | Rejected]:
    """Yield the rows of a list without a header, tab between the cells; their id is the number of the line.

    Quotes are letters here, as in the lists of Google. A header that somebody has put before them is passed over.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name} line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield Rejected(where, str(number), "not UTF-8", "holds bytes that are no UTF-8")
                continue
            cells = text.rstrip("\r\n").split("\t")
            if len(cells) != len(columns):
                rule = f"has {len(cells)} cells, not {len(columns)} ({', '.join(columns)})"
                yield Rejected(where, str(number), "broken row", rule)
            elif number > 1 or sorted(cell.strip().lower() for cell in cells) != sorted(columns):
                yield {"id": number, **dict(zip(columns, cells, strict=True))}


def only_one(paths: Sequence[Path]) -> Path:
    """Return the one file that a list consists of.

    Raises:
        DataError: there are several.
    """
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths[:3])
        raise DataError(f"--source {paths[0].parent}: holds {len(paths)} lists ({names}, …); name one of them")
    return paths[0]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is none.
    """
    with opened(path) as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError, EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: is no JSON ({error}); get it again") from None


def read_parquets(
    paths: Sequence[Path], columns: Mapping[str, Sequence[str]], keep: Sequence[str] = ()
) -> Iterator[Item]:
    """Yield batches of `columns`, each the first of several names that a file has, and of those of `keep` it has.

    Letters may be small or capital. Without an id, rows are called after their file and place. Columns that
    img2dataset writes itself get `source_` before their name.

    Raises:
        DataError: a file is no Parquet, or lacks a column.
    """
    schema = None
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                names = _found(path, file.schema_arrow.names, columns, keep)
                row = 0
                for batch in file.iter_batches(BATCH, columns=list(dict.fromkeys(names.values()))):
                    made = _renamed(batch, names, f"{path.stem}:", row)
                    schema = schema or made.schema
                    row += batch.num_rows
                    yield made.cast(schema)
        except (OSError, ValueError, pa.ArrowNotImplementedError) as error:  # ArrowInvalid is a ValueError
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read as Parquet ({reason}); get it again") from None


def _found(
    path: Path, names: Sequence[str], columns: Mapping[str, Sequence[str]], keep: Sequence[str]
) -> dict[str, str]:
    """Return the file's column for each that is wanted."""
    known = {name.lower(): name for name in names}
    found = {}
    for wanted, options in columns.items():
        name = next((known[option.lower()] for option in options if option.lower() in known), None)
        if name is not None:
            found[wanted] = name
        elif wanted != "id":
            raise DataError(f"{path}: has no column {' or '.join(options)}; it has {', '.join(names)}")
    for name in keep:
        if name.lower() in known:
            found[f"source_{name.lower()}" if name.lower() in RESERVED else name] = known[name.lower()]
    return found


def _renamed(batch: Batch, names: Mapping[str, str], prefix: str, first: int) -> Batch:
    arrays = {wanted: batch.column(name) for wanted, name in names.items()}
    for wanted in ("url", "caption"):
        arrays[wanted] = arrays[wanted].cast(pa.string())
    if "id" not in arrays:
        arrays["id"] = pa.array([f"{prefix}{row}" for row in range(first, first + batch.num_rows)], pa.string())
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
