"""Datasets of the library `datasets`: a folder that `save_to_disk` wrote, or a name on the hub. Nothing is decoded.

https://huggingface.co/docs/datasets
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from contrastive.errors import DataError
from contrastive.recipes.forms.cells import Images
from contrastive.recipes.forms.columns import ALL, Columns, Row
from contrastive.recipes.records import Record, Rejected

HUB = "hf:"
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


@dataclass(frozen=True)
class HuggingFace:
    """A folder that save_to_disk wrote, or `hf:ORG/NAME` (also a folder that load_dataset understands).

    `image`, `caption` (several joined by commas), `id` and `fields` are columns, as of a table; without `id` samples
    are named by a hash of the image's bytes, behind its file name where there is one. `split` is the one to read; None:
    all, each sample of its own. `config` is one of the dataset's configurations. `streaming` reads a dataset of the hub
    without keeping it.
    """

    source: str
    image: str = "image"
    caption: str = "caption"
    id: str | None = None
    split: str | None = None
    fields: str = ALL
    config: str | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        _library()
        if not self.source.startswith(HUB) and not any(
            os.path.isfile(os.path.join(self._folder, one)) for one in SAVED
        ):
            rule = "give a folder that save_to_disk wrote, or hf:ORG/NAME"
            raise DataError(f"{self.source}: holds no {' or '.join(SAVED)}; {rule}")

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every row of every split, in their order; see `Form`."""
        library = _library()
        count = 0
        for name, table in self._splits(library).items():
            where = f"{self.source}, {name}"
            features = _features(table, where)
            names = {"image": self.image, "caption": self.caption, "fields": self.fields}
            columns = Columns.named(list(features), where, **names, id=self.id, split=None)
            plain = [one for one, kind in features.items() if _is_plain(library, kind)]
            chosen = table.select_columns(columns.wanted(features, plain))
            images = Images(os.path.abspath(self._folder))
            for number, values in enumerate(_undecoded(library, chosen, self.image, features[self.image], where)):
                count += 1
                yield columns.record(Row(f"{where}: row {number}", values), images, split=name)
        if not count:
            raise DataError(f"{self.source}: holds no row")

    @property
    def _folder(self) -> str:
        return os.path.expanduser(self.source.removeprefix(HUB))

    def _splits(self, library: ModuleType) -> Mapping[str, Any]:
        """Return the tables to read by split."""
        try:
            if self.source.startswith(HUB):
                found = library.load_dataset(self._folder, self.config, streaming=self.streaming)
            else:
                found = library.load_from_disk(self._folder)
        # The library raises whatever its parts raise; whichever it is, its first line says what is wrong.
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise DataError(f"{self.source}: cannot be loaded: {_first_line(error)}") from None
        tables = found if isinstance(found, Mapping) else {str(found.split or "train"): found}
        if self.split is None:
            return tables
        if self.split not in tables:
            raise DataError(f"split: {self.source} has no split {self.split!r}; it has {', '.join(tables)}")
        return {self.split: tables[self.split]}


def _library() -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        said = "pip install 'contrastive-pretrain[datasets]'"
        raise DataError(f"--from hugging_face needs the library datasets: {said}") from None


def _features(table: Any, where: str) -> Mapping[str, Any]:
    """Return what each column holds; None where a stream does not tell."""
    if table.features is not None:
        found: Mapping[str, Any] = table.features
        return found
    first = next(iter(table), None)
    if first is None:
        raise DataError(f"{where}: holds no row")
    return dict.fromkeys(first)


def _is_plain(library: ModuleType, kind: Any) -> bool:
    """Whether a column may hold one plain value a row."""
    if kind is None:
        return True
    return isinstance(kind, library.Value | library.ClassLabel) and "binary" not in kind.dtype


def _undecoded(library: ModuleType, table: Any, column: str, kind: Any, where: str) -> Any:
    """Return a table whose images are bytes or paths.

    Raises:
        DataError: the column holds no images.
    """
    if isinstance(kind, library.Image):
        return table.cast_column(column, library.Image(decode=False))
    if kind is None or (isinstance(kind, library.Value) and kind.dtype in ("string", "large_string", "binary")):
        return table  # paths, or bytes that nobody called an image
    if isinstance(kind, Mapping) and "bytes" in kind:
        return table
    raise DataError(f"image: column {column!r} of {where} holds no images but {kind}; name another with image=")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
