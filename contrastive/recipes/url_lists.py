"""Lists of images on the web, made into what img2dataset reads: Parquet files of url, caption, id and further columns.

A row that has no address or no caption, or cannot be read, is left out and written down. Files have a fixed number of
rows, a multiple of img2dataset's shards, so that the key of an image is its place in the list.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.records import Rejected
from contrastive.recipes.writing import MANIFEST, finished_folder, is_finished, write_json
from contrastive.registry import suggest

ROWS_PER_FILE = 1_000_000  # img2dataset holds a file in memory
REJECTED = "rejected.jsonl"
COMPARISONS = {
    ">=": "greater_equal", "<=": "less_equal", "==": "equal", "!=": "not_equal", ">": "greater", "<": "less"
}  # fmt: skip
CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S.*?)\s*")
Batch: TypeAlias = Any  # pyarrow.RecordBatch: url, caption, id, …
Item: TypeAlias = Batch | Rejected


class Condition(NamedTuple):
    """What a row must fulfil to be listed: `column >= value`; a row without a value there does not."""

    column: str
    sign: str
    value: float | str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Return the condition that `COLUMN>=VALUE` stands for.

        Raises:
            ConfigError: it is none.
        """
        found = CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(f"--where {text!r}: is no COLUMN>=VALUE; signs are {' '.join(COMPARISONS)}")
        column, sign, value = found.groups()
        try:
            return cls(column, sign, float(value))
        except ValueError:
            return cls(column, sign, value)

    def holds(self, batch: Batch) -> Any:
        """Return for each row whether it does, as booleans.

        Raises:
            ConfigError: there is no such column, or its values cannot be compared with the value.
        """
        if self.column not in batch.schema.names:
            names = batch.schema.names
            raise ConfigError(f"--where {self.column}: no such column{suggest(self.column, names)}")
        values = batch.column(self.column)
        try:
            return pc.fill_null(getattr(pc, COMPARISONS[self.sign])(values, pa.scalar(self.value)), False)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            rule = f"the column holds {values.type}, which cannot be compared with {self.value!r}"
            raise ConfigError(f"--where {self.column}: {rule}") from None


@dataclass
class Listed:
    """What became of the rows of a source."""

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unwanted: int = 0  # rows that a condition left out
    example: str = ""

    def __str__(self) -> str:
        said = [f"{self.rows:,} rows listed"]
        said += [f"{self.unwanted:,} left out by --where"] if self.unwanted else []
        said += [f"{count:,} rejected ({reason})" for reason, count in self.rejected.most_common()]
        return ", ".join(said)


def write_list(
    folder: Path,
    items: Iterable[Item],
    identity: Mapping[str, Any],
    *,
    where: Sequence[Condition] = (),
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Listed:
    """Write the usable ones of a source's rows into 00000.parquet …, the rest into rejected.jsonl.

    The folder appears whole or not at all; one that the same `identity` made is kept. `limit` takes the first rows.

    Raises:
        DataError: no row is usable.
    """
    recipe = {**identity, "where": [list(one) for one in where], "limit": limit}
    if is_finished(folder, recipe):
        return known_list(folder)
    with finished_folder(folder) as draft, (draft / REJECTED).open("w", encoding="utf-8") as rejects:
        listed = Listed()
        writer = _Files(draft)
        for item in items:
            for one in writer.take(item, where, None if limit is None else limit - listed.rows, listed):
                rejects.write(json.dumps(one._asdict(), ensure_ascii=False) + "\n")
                listed.rejected[one.reason] += 1
                listed.example = listed.example or f"{one.where}: {one.message}"
            if progress is not None:
                progress(listed.rows)
            if limit is not None and listed.rows >= limit:
                break
        writer.close()
        if not listed.rows:
            raise DataError(
                f"{identity.get('source')}: no row can be used ({listed}); {listed.example or 'it is empty'}"
            )
        counts = {"rows": listed.rows, "rejected": dict(listed.rejected), "unwanted": listed.unwanted}
        write_json(draft / MANIFEST, {"recipe": recipe, **counts, "example": listed.example})
    return listed


def known_list(folder: Path) -> Listed:
    """Return what became of the rows of a list that is written.

    Raises:
        DataError: there is none.
    """
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Listed(said["rows"], Counter(said["rejected"]), said["unwanted"], said["example"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder}: holds no list; run --step list first") from None


def listed_columns(folder: Path) -> list[str]:
    """Return the columns of a list that is written.

    Raises:
        DataError: there is none.
    """
    try:
        names: list[str] = parquet.read_schema(folder / "00000.parquet").names
    except (OSError, ValueError):
        raise DataError(f"{folder}: holds no list; run --step list first") from None
    return names


class _Files:
    """Writes batches into files of equally many rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.filled = 0
        self.writer: Any = None

    def take(self, item: Item, where: Sequence[Condition], room: int | None, listed: Listed) -> list[Rejected]:
        """Write a batch's usable rows, at most `room`; return the others."""
        if isinstance(item, Rejected):
            return [item]
        wanted = item
        for condition in where:
            wanted = wanted.filter(condition.holds(wanted))
        listed.unwanted += item.num_rows - wanted.num_rows
        url, caption = (pc.utf8_trim_whitespace(wanted.column(name)) for name in ("url", "caption"))
        is_url = pc.fill_null(pc.match_substring_regex(url, "(?i)^https?://[^/]"), False)
        is_caption = pc.fill_null(pc.greater(pc.utf8_length(caption), 0), False)
        is_good = pc.and_(is_url, is_caption)
        bad = wanted.filter(pc.invert(is_good))
        for name, column in (("url", url), ("caption", caption)):
            wanted = wanted.set_column(wanted.schema.get_field_index(name), name, column)
        good = wanted.filter(is_good)
        good = good if room is None else good.slice(0, room)
        listed.rows += good.num_rows
        self.write(good)
        return [_judged(row) for row in bad.select(["url", "caption", "id"]).to_pylist()]

    def write(self, batch: Batch) -> None:
        """Append rows, in a new file where one is full."""
        while batch.num_rows:
            if self.writer is None:
                path = self.folder / f"{self.count:05d}.parquet"
                self.writer = parquet.ParquetWriter(path, batch.schema, compression="zstd")
                self.count, self.filled = self.count + 1, 0
            part = batch.slice(0, ROWS_PER_FILE - self.filled)
            self.writer.write_batch(part)
            self.filled += part.num_rows
            batch = batch.slice(part.num_rows)
            if self.filled == ROWS_PER_FILE:
                self.close()

    def close(self) -> None:
        """End the file that is open."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _judged(row: Mapping[str, Any]) -> Rejected:
    url, caption, where = row["url"], row["caption"], f"row {row['id']}"
    if caption is None or not caption.strip():
        return Rejected(where, str(row["id"]), "caption: empty", "its caption is empty")
    return Rejected(where, str(row["id"]), "url: none", f"{str(url or '')[:200]!r} is no http address")
