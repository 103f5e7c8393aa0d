"""A folder of image files, whose captions are their names, their folders' names, or lie beside them."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.cells import BadRowError, captions_of, is_scalar, plain, printable, stem
from contrastive.recipes.forms.files import SHOWN, Folder, folders, holds_images, is_image
from contrastive.recipes.forms.rows import rows_of
from contrastive.recipes.forms.table import Table
from contrastive.recipes.records import File, Record, Rejected

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as the library datasets names them
NAMES, FILE_NAME = ("caption", "text", "captions"), "file_name"
SIDECARS = (".txt", ".json")
CHOOSE = "caption=name takes the images' own names, caption=folder those of their folders"


@dataclass(frozen=True)
class ImageFolder:
    """All images below a folder; hidden files are passed over. A sample's key is its path without the ending.

    `caption` says where captions come from: `name`, the file's name, in which `_` and `-` are blanks (unless `blanks`
    is false); `folder`, the name of its folder, likewise; both put into the `template`; `sidecar`, beside the image:
    NAME.txt with a caption a line, NAME.json, or a table for the whole folder (metadata.csv, .jsonl or .parquet with a
    column file_name, https://huggingface.co/docs/datasets/image_dataset#imagefolder). None: sidecars, if there are
    some. `field` is the key of NAME.json or the column of the table; None: caption, text or captions.
    """

    source: str
    caption: Literal["name", "folder", "sidecar"] | None = None
    field: str | None = None
    template: str = "{}"
    blanks: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        if "{}" not in self.template:
            raise ConfigError(f"template: {self.template!r} must hold {{}}, the place of the name")
        root = self._root
        if not os.path.isdir(root):
            raise DataError(f"there is no folder {root}")
        if not holds_images(root):
            raise DataError(f"{root}: holds no image; it needs files of {SHOWN}")
        if self._way is None:
            rule = f"{CHOOSE}, or give the table that names the images instead of their folder"
            raise DataError(f"{root}: its images have no captions beside them (.txt, .json or {TABLES[0]}); {rule}")

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every image, sorted by folder and name, and every caption without an image; see `Form`."""
        way = self._way
        tables: list[str] = []  # folders below which a table has had its say
        for folder in folders(self._root):
            if folder.files == [""]:
                yield Rejected(folder.path, printable(folder.below), "folder: unreadable", f"{folder.path}: no access")
            elif way != "sidecar":
                yield from (self._named(folder, name, way) for name in folder.files if is_image(name))
            elif any(folder.path.startswith(f"{path}/") for path in tables):
                continue
            elif (table := _table(folder)) is not None:
                tables.append(folder.path)
                yield from self._of_table(folder, table)
            else:
                yield from self._beside(folder)

    @property
    def _root(self) -> str:
        return os.path.abspath(os.path.expanduser(self.source))

    @cached_property
    def _way(self) -> str | None:
        """Return where captions come from, None where nothing tells."""
        if self.caption is not None:
            return self.caption
        for folder in folders(self._root):
            images = {stem(name) for name in folder.files if is_image(name)}
            beside = (stem(name) for name in folder.files if name.lower().endswith(SIDECARS))
            if _table(folder) or not images.isdisjoint(beside):
                return "sidecar"
        return None

    def _named(self, folder: Folder, name: str, way: str | None) -> Record | Rejected:
        path = f"{folder.path}/{name}"
        text = stem(name) if way == "name" else os.path.basename(folder.path)
        if self.blanks:
            text = " ".join(text.replace("_", " ").replace("-", " ").split())
        try:
            captions = captions_of([self.template.replace("{}", text) if text.strip() else ""])
        except BadRowError as bad:
            return bad.at(path, _key(folder, name))
        return Record(_key(folder, name), File(path), captions, printable(path))

    def _beside(self, folder: Folder) -> Iterator[Record | Rejected]:
        """Yield the images of a folder with what lies beside each, and what lies beside none."""
        held: dict[str, str] = {}
        for name in folder.files:
            if name.lower().endswith(SIDECARS):
                held[os.path.splitext(name)[0] + os.path.splitext(name)[1].lower()] = name
        images = [name for name in folder.files if is_image(name)]
        for name in images:
            beside = {ending: held.get(os.path.splitext(name)[0] + ending) for ending in SIDECARS}
            yield self._with(folder, name, {ending: file for ending, file in beside.items() if file is not None})
        stems = {os.path.splitext(name)[0] for name in images}
        for key, name in held.items() if images else ():
            if os.path.splitext(key)[0] not in stems:
                path = f"{folder.path}/{name}"
                yield BadRowError("image: missing", "has no image beside it").at(path, _key(folder, name))

    def _with(self, folder: Folder, name: str, beside: Mapping[str, str]) -> Record | Rejected:
        path, key = f"{folder.path}/{name}", _key(folder, name)
        try:
            texts, values = (_read(folder, beside.get(ending)) for ending in SIDECARS)
            content = _object(values)
            field = None
            if self.field is None and texts is not None:
                captions = captions_of(texts.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
            else:
                field = self.field or next((one for one in NAMES if one in content), NAMES[0])
                captions = captions_of([content.get(field)])
        except BadRowError as bad:
            return bad.at(path, key)
        others = {str(plain(one)): plain(value) for one, value in content.items() if one != field and is_scalar(value)}
        return Record(key, File(path), captions, printable(path), others)

    def _of_table(self, folder: Folder, name: str) -> Iterator[Record | Rejected]:
        """Yield the rows of a folder's table, and the images below the folder of which it says nothing."""
        path = f"{folder.path}/{name}"
        present = rows_of(path, asked=(FILE_NAME,)).columns
        field = self.field or next((one for one in NAMES if one in present), NAMES[0])
        if field not in present:
            raise ConfigError(f"field: {path} has no column {field!r}; it has {', '.join(present) or 'none'}; name one")
        table = Table(path, image=FILE_NAME, caption=field)
        within = f"{folder.below}/" if folder.below else ""
        unnamed = {f"{one.path}/{file}" for one in folders(folder.path) for file in one.files if is_image(file)}
        for found in table.records(within):
            if isinstance(found, Record) and isinstance(found.image, File):
                unnamed.discard(found.image.path)
            yield found
        for image in sorted(unnamed):
            key = within + os.path.splitext(image.removeprefix(f"{folder.path}/"))[0]
            yield BadRowError("caption: missing", f"is not named in {path}").at(image, key)


def _table(folder: Folder) -> str | None:
    return next((name for name in TABLES if name in folder.files), None)


def _key(folder: Folder, name: str) -> str:
    own = os.path.splitext(name)[0]
    return f"{folder.below}/{own}" if folder.below else own


def _read(folder: Folder, name: str | None) -> str | None:
    """Return the text of a file, None where there is none."""
    if name is None:
        return None
    try:
        with open(f"{folder.path}/{name}", "rb") as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRowError("caption: not UTF-8", f"its {name} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise BadRowError("caption: unreadable", f"its {name} cannot be read ({error.strerror})") from None


def _object(text: str | None) -> dict[str, Any]:
    """Return the object in a JSON text, an empty one where there is no text."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRowError("json: damaged", "the .json beside it is no JSON") from None
    if not isinstance(found, dict):
        raise BadRowError("json: no object", "the .json beside it is no object {field: value}")
    return found
