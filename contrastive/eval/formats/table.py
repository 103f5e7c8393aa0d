"""CSV, TSV, JSON Lines and Parquet with named columns: a row a caption, or a row an image.

ROOT/SPLIT.csv (or .tsv, .jsonl, .parquet), or ROOT is such a file and a column says which split a row belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.columns import ColumnNames, Rows, grouped, kinds_of
from contrastive.eval.formats.table_file import ENDINGS, read_rows
from contrastive.eval.lines import read_lines
from contrastive.eval.samples import Content, FileImage, Kind, file_image

CLASSNAMES = "classnames.txt"


@dataclass(frozen=True)
class Table(ColumnNames):
    """See `ColumnNames` for what columns hold; images are paths below `images`, a folder beside the table.

    `classes`, a text file or a list, are the names that labels may have, in the order of their indices; None: those of
    classnames.txt beside the table, where there is one. Several labels in one text are parted by `separator`.
    """

    images: str = "."
    classes: str | tuple[str, ...] | None = None
    separator: str = "|"
    split_column: str = "split"

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return a sample an image, in the order of the table; see `samples.Format`."""
        if not self.separator:
            raise ConfigError("format.separator: is empty; give what stands between two labels, such as |")
        wanted = {*self.wanted().values(), self.split_column}
        if root.is_file():
            rows = _of_split(read_rows(root, wanted), self.split_column, split)
        else:
            rows = read_rows(_file(root, split), wanted)
        roles = self.found(rows.present, rows.where)
        folder = root.parent if root.is_file() else root
        paths = rows.columns[roles["image"]]

        def image(row: int) -> FileImage:
            path = paths[row]
            if not isinstance(path, str) or not path.strip():
                rule = "must be the path of an image file (for images inside the table use format: hugging_face)"
                raise DataError(f"{rows.at(row)}: {roles['image']}: {str(path)[:40]!r} {rule}")
            try:
                return file_image(folder, str(Path(self.images) / path))
            except DataError as error:
                raise DataError(f"{rows.at(row)}: {error}") from None

        kinds = kinds_of(roles, kinds, rows)
        return grouped(rows, roles, kinds, image, classes=self._classes(folder), separator=self.separator)

    def _classes(self, folder: Path) -> tuple[str, ...]:
        """Return the names that labels may have; none where nothing says so."""
        given = self.classes
        if given is None:
            given = str(folder / CLASSNAMES) if (folder / CLASSNAMES).is_file() else ()
        if not isinstance(given, str):
            return given
        return tuple(read_lines(Path(given), "format.classes", "one class a line, in the order of the labels", None))


def _file(root: Path, split: str) -> Path:
    """Return the table of a split."""
    found = [path for ending in ENDINGS if (path := root / f"{split}{ending}").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{root}: has several tables of split {split!r} ({names}); remove all but one")
    there = ", ".join(sorted(path.name for path in root.iterdir() if path.suffix.lower() in ENDINGS))
    rule = f"set split to one of {there}" if there else f"write it (or {', '.join(ENDINGS[1:])})"
    raise DataError(f"there is no {root / split}{ENDINGS[0]}; {rule}")


def _of_split(rows: Rows, column: str, split: str) -> Rows:
    """Return the rows of a split; a file that knows no splits is that whose name it has, or the test split."""
    if column not in rows.columns:
        if split in ("test", Path(rows.where).stem):
            return rows
        rule = "name the column that says it with format.split_column, or give every split its own file"
        raise ConfigError(f"{rows.where}: has no column {column!r} to find split {split!r} by; {rule}")
    kept = [row for row, value in enumerate(rows.columns[column]) if value == split]
    if not kept:
        there = ", ".join(sorted({str(value) for value in rows.columns[column]}))
        raise DataError(f"{rows.where}: no row has {column} {split!r}; there are {there}")
    columns = {name: [values[row] for row in kept] for name, values in rows.columns.items()}
    return Rows(rows.where, rows.unit, [rows.numbers[row] for row in kept], columns, rows.present)
