"""Tables that name images and their captions: CSV, TSV, JSON Lines, JSON and Parquet."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contrastive.errors import DataError
from contrastive.recipes.forms.cells import AN_ADDRESS, Images
from contrastive.recipes.forms.columns import ALL, Columns
from contrastive.recipes.forms.rows import ENDINGS, Rows, is_table, rows_of
from contrastive.recipes.records import Record, Rejected

ADDRESSES = ("url", "image_url", "img_url", "image_link", "link")
DOWNLOAD = "download them first: img2dataset --url_list {0} --output_format webdataset …, and pack the folder it writes"


@dataclass(frozen=True)
class Table:
    """CSV, TSV, JSON Lines (also .gz), a JSON list of objects, or Parquet: a file, a folder of them, or a glob.

    `image` is the column of images: paths below `root` (None: the table's own folder), absolute paths, or the images
    themselves: bytes, or {bytes, path} as the library datasets writes them; with `base64` a text is the image. A
    relative path must not lead out of the root. `caption` is a column of texts or lists of texts, or several columns
    joined by commas. `id` names the samples; None: the image's path without its ending. Rows of one name and one image
    are one sample. `fields` go into the json: * for all further columns of plain values, or names joined by commas.
    `split` is the column that says which part a row belongs to. `delimiter` of CSV is found where it is None; `columns`
    are the names, joined by commas, of a file without a header.
    """

    source: str
    image: str = "image"
    caption: str = "caption"
    id: str | None = None
    root: str | None = None
    fields: str = ALL
    split: str | None = None
    base64: bool = False
    delimiter: str | None = None
    columns: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        path = self._files()[0]
        self._columns(path, self._open(path))

    def records(self, within: str = "") -> Iterator[Record | Rejected]:
        """Yield every row of every table; see `Form`. Keys that come of paths begin with `within`, a folder."""
        count = 0
        for path in self._files():
            for found in self._of(path, within, is_first=not count):
                count += 1
                yield found
        if not count:
            raise DataError(f"{self.source}: holds no row")

    def _of(self, path: str, within: str, is_first: bool) -> Iterator[Record | Rejected]:
        root = os.path.dirname(path) if self.root is None else os.path.expanduser(self.root)
        images = Images(os.path.abspath(root), self.base64)
        try:
            table = self._open(path)
            columns = self._columns(path, table)
            for row in table.rows(columns.wanted(table.columns, table.plain)):
                found = row if isinstance(row, Rejected) else columns.record(row, images, within)
                if is_first and isinstance(found, Rejected) and found.reason == AN_ADDRESS:
                    raise _AddressesError(f"{found.message.rpartition(';')[0]}; {DOWNLOAD.format(path)}")
                is_first = False
                yield found
        except _AddressesError:
            raise
        except DataError as error:  # what was read of it stays, and so do the other tables
            yield Rejected(path, "", "table: damaged", str(error))

    def _files(self) -> list[str]:
        """Return the tables, sorted."""
        source = os.path.expanduser(self.source)
        if os.path.isdir(source):
            held = sorted(name for name in os.listdir(source) if is_table(name) and not name.startswith("."))
            found = [str(Path(source) / name) for name in held]
        elif glob.has_magic(source) and not os.path.exists(source):
            found = sorted(glob.glob(source, recursive=True))
        else:
            found = [source]
        if not found:
            raise DataError(f"{source}: holds no table; it needs files of {', '.join(ENDINGS)}")
        return found

    def _open(self, path: str) -> Rows:
        header = tuple(name.strip() for name in self.columns.split(",")) if self.columns else ()
        asked = (self.image, *self.caption.split(","), self.id or "")
        return rows_of(path, delimiter=self.delimiter, header=header, asked=asked)

    def _columns(self, path: str, table: Rows) -> Columns:
        present = table.columns
        if not present:
            raise DataError(f"{path}: holds no row")
        addresses = [name for name in present if name.lower() in ADDRESSES]
        if self.image not in present and addresses:
            if {"status", "key"} <= set(present):
                rule = "lists what img2dataset downloaded; pack the folder of tars that it lies in"
                raise _AddressesError(f"{path}: {rule}")
            rule = f"holds the addresses of images (column {addresses[0]!r}), not images"
            raise _AddressesError(f"{path}: {rule}; {DOWNLOAD.format(path)}")
        names = {"image": self.image, "caption": self.caption, "fields": self.fields}
        return Columns.named(present, path, **names, id=self.id, split=self.split)


class _AddressesError(DataError):
    """A table of addresses of the web, of which no row can be used."""
