"""Datasets of the library `datasets`: a folder that `save_to_disk` wrote, or a name on the Hugging Face hub.

Images are read when they are needed, out of the memory-mapped table. https://huggingface.co/docs/datasets
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.columns import ColumnNames, Rows, grouped, kinds_of
from contrastive.eval.samples import Content, Kind, decoded

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
BATCH = 1000  # rows looked at together for the sizes of their images


@dataclass(frozen=True, slots=True)
class RowImage:
    """The image of a row; `rows` is the image column alone, which travels as the path of its table."""

    rows: Any
    column: str
    index: int
    name: str
    stamp: str
    where: str  # the dataset, for messages

    def decode(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            DataError: the row cannot be read as an image.
        """
        cell = self.rows[self.index][self.column]
        content = cell["bytes"]
        if content is None:
            try:
                content = Path(cell["path"]).read_bytes()
            except OSError as error:
                raise DataError(f"{cell['path']}: cannot be read ({error.strerror or error})") from None
        return decoded(content, f"{self.where}: row {self.index}")


@dataclass(frozen=True)
class HuggingFace(ColumnNames):
    """See `ColumnNames` for what columns hold; class names come from the features.

    `path` is a dataset of the hub or a folder that `load_dataset` understands, `config` one of its configurations; the
    root is then where it is kept. None: the root itself was written by `save_to_disk`.
    """

    path: str | None = None
    config: str | None = None

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return a sample a row, or one for all rows of an id; see `samples.Format`."""
        library = _library()
        where = f"{self.path or root}, {split}"
        table = self._load(library, root, split)
        present = tuple(table.column_names)
        roles = self.found(present, where)
        names = {role: column for role, column in roles.items() if role != "image"}
        plain = table.select_columns(list(names.values()))
        columns = {column: plain[column][:] for column in names.values()}
        rows = Rows(where, "row", range(len(table)), columns, present)
        kinds = kinds_of(roles, kinds, rows)
        images = _images(library, table, roles["image"], where)

        def image(row: int) -> RowImage:
            return RowImage(images, roles["image"], row, f"{split}: row {row}", stamps[row], where)

        stamps = _stamps(images, roles["image"], where)
        content = grouped(rows, roles, kinds, image, separator="|")
        return _named(content, table.features, roles)

    def _load(self, library: ModuleType, root: Path, split: str) -> Any:
        """Return the rows of a split.

        Raises:
            DataError: there is no such dataset or split, or the hub cannot be reached.
        """
        if self.path is None and not any((root / name).is_file() for name in SAVED):
            rule = "set format.path to a name on the hub, or root to a folder that save_to_disk wrote"
            raise DataError(f"{root}: holds no {' or '.join(SAVED)}; {rule}")
        try:
            if self.path is None:
                found = library.load_from_disk(str(root))
            else:
                found = library.load_dataset(self.path, self.config, cache_dir=str(root))
        # The library raises whatever its parts raise; whichever it is, its first line says what is wrong.
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.path or root}: cannot be loaded: {said}") from None
        return _of_split(found, split, str(self.path or root))


def _library() -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ConfigError(
            "format: hugging_face needs the library datasets: pip install 'contrastive-pretrain[datasets]'"
        ) from None


def _of_split(found: Any, split: str, where: str) -> Any:
    """Return the table of a split; a table alone is that of its own name, or the test split."""
    if isinstance(found, dict):
        if split not in found:
            raise DataError(f"{where}: has no split {split!r}; it has {', '.join(found)}")
        return found[split]
    own = "test" if found.split is None else str(found.split)
    if split != own:
        raise DataError(f"{where}: has no split {split!r}; it is {own!r} alone")
    return found


def _images(library: ModuleType, table: Any, column: str, where: str) -> Any:
    """Return the column of the images, which are not decoded.

    Raises:
        DataError: the column holds no images.
    """
    try:
        return table.select_columns([column]).cast_column(column, library.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last is Arrow's
        said = str(error).splitlines()[0]
        raise DataError(f"{where}: column {column!r} holds no images ({said}); set format.image") from None


def _stamps(rows: Any, column: str, where: str) -> list[str]:
    """Return the size of every image; the bytes themselves stay on the disk."""
    import pyarrow.compute as pc  # takes 0.2 s, which the other layouts need not wait for

    stamps: list[str] = []
    for batch in rows.with_format("arrow").iter(BATCH):
        cells = batch.column(column)
        sizes = pc.binary_length(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
        for size, path in zip(sizes, paths, strict=True):
            if size is None and path is None:
                raise DataError(f"{where}: row {len(stamps)}: has no image; leave the row out")
            stamps.append(str(_size(path, f"{where}: row {len(stamps)}") if size is None else size))
    return stamps


def _size(path: str, where: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"{where}: {path}: cannot be read ({error.strerror or error})") from None


def _named(content: Content, features: Any, roles: dict[str, str]) -> Content:
    """Return the content with the class names that the features know, `_` read as a space."""
    for role in ("label", "labels"):
        if role not in roles:
            continue
        feature = features[roles[role]]
        feature = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
        names = tuple(str(name).replace("_", " ") for name in getattr(feature, "names", None) or ())
        if names and not content.classnames:
            return Content(content.samples, content.kinds, names)
    return content
