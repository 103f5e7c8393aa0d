"""NumPy arrays: images in .npz or .npy, with their captions. Nothing is unpickled, and one image is held at a time."""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.cells import BadRowError, as_png, captions_of, is_scalar, name_of, plain
from contrastive.recipes.records import Record, Rejected

BESIDE = ("captions.txt", "captions.npy")
Item = NDArray[Any]


class Stored(NamedTuple):
    """An array in a file: its shape, its type, and what opens it to be read from its begin."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], IO[bytes]]

    def items(self) -> Iterator[Item]:
        """Yield array[0], array[1], …; one is held at a time."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with self.open() as file:
            _header(file, self.where)
            for _ in range(self.shape[0]):
                content = file.read(size)
                if len(content) != size:
                    raise DataError(f"{self.where}: is cut short; copy it again")
                yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])


@dataclass(frozen=True)
class Arrays:
    """A .npz with `images` and captions, or a .npy of images with a file of captions; images become PNG.

    `images` names an array uint8 [N, H, W, 3], [N, H, W, 1] or [N, H, W]. `captions` names the array of texts, [N] or
    [N, K], or is the path of a .txt (a caption a line) or .npy; None: the array captions, else captions.txt or
    captions.npy beside the file. `ids` is an array of names, likewise; None: the place in the array. Further arrays of
    N plain values go into the json.
    """

    source: str
    images: str = "images"
    captions: str | None = None
    ids: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        self._columns()

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every image in the order of the array; see `Form`."""
        columns = self._columns()
        try:
            with ExitStack() as stack:
                streams = {name: one() for name, one in columns.items()}
                for stream in streams.values():
                    stack.callback(stream.close)
                yield from (_record(self.source, number, row) for number, row in enumerate(_together(streams)))
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.source}: cannot be read ({error}); copy it again") from None

    def _columns(self) -> "Mapping[str, Callable[[], Any]]":
        """Return what opens each column: image, caption, id, and further ones behind `field.`."""
        path = os.path.expanduser(self.source)
        held = _arrays(path)
        images = held[self.images] if path.endswith(".npz") and self.images in held else held.get("")
        if images is None:
            rule = f"it has {', '.join(held) or 'none'}; name it with images="
            raise ConfigError(f"images: {path} has no array {self.images!r}; {rule}")
        count = _require_images(images)
        captions = self._given(path, held, self.captions, "captions")
        columns: dict[str, Callable[[], Any]] = {"image": images.items}
        columns["caption"] = _lines(captions) if isinstance(captions, str) else _texts(captions, count)
        taken = {self.images, "captions" if self.captions is None else self.captions, self.ids}
        if self.ids is not None:
            ids = self._given(path, held, self.ids, "ids")
            columns["id"] = _lines(ids) if isinstance(ids, str) else _texts(ids, count)
        for name, one in held.items():
            if name not in taken and one.shape == (count,) and one.dtype.kind in "biufU":
                columns[f"field.{name}"] = one.items
        return columns

    def _given(self, path: str, held: Mapping[str, Stored], name: str | None, option: str) -> Stored | str:
        """Return the array, or the path of the text file, that an option names."""
        if name is None and option in held:
            return held[option]
        if name is not None and name in held:
            return held[name]
        folder = os.path.dirname(path)
        places = [os.path.expanduser(name)] if name is not None else [os.path.join(folder, one) for one in BESIDE]
        found = next((place for place in places if os.path.isfile(place)), None)
        if found is None:
            arrays = ", ".join(filter(None, held)) or "none"
            tried = name if name is not None else f"{option} and no {' or '.join(BESIDE)} beside it"
            raise ConfigError(f"{option}: {path} has no array {tried} (it has {arrays}); name an array or a file")
        return _arrays(found)[""] if found.endswith(".npy") else found


def _arrays(path: str) -> dict[str, Stored]:
    """Return the arrays of a file by name; that of a .npy has none."""
    try:
        if not path.endswith(".npz"):
            return {"": _stored(path, lambda: open(path, "rb"))}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name[:-4]: _stored(f"{path}, {name[:-4]}", _member(path, name)) for name in names}
    except (OSError, zipfile.BadZipFile) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as NumPy's .npz or .npy ({said})") from None


def _member(path: str, name: str) -> Callable[[], IO[bytes]]:
    return lambda: zipfile.ZipFile(path).open(name)


def _stored(where: str, opened: Callable[[], IO[bytes]]) -> Stored:
    with opened() as file:
        shape, is_fortran, dtype = _header(file, where)
    if dtype.hasobject:
        rule = "holds Python objects, which are not unpickled; save texts as np.array(captions, dtype=str)"
        raise DataError(f"{where}: {rule}")
    if is_fortran and len(shape) > 1:
        raise DataError(f"{where}: lies column by column; save np.ascontiguousarray(array)")
    return Stored(where, shape, dtype, opened)


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except ValueError as error:
        raise DataError(f"{where}: is no NumPy array ({error})") from None
    return shape, is_fortran, dtype


def _require_images(images: Stored) -> int:
    """Return how many images there are.

    Raises:
        DataError: the array holds none, or in another form.
    """
    shape, dtype = images.shape, images.dtype
    if dtype != np.uint8:
        rule = "images must be uint8 from 0 to 255; of floats from 0 to 1 save (255 * images).round().astype(np.uint8)"
        raise DataError(f"{images.where}: has type {dtype}; {rule}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise DataError(f"{images.where}: has shape {list(shape)}; save images.transpose(0, 2, 3, 1), colours last")
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
        raise DataError(f"{images.where}: has shape {list(shape)}; images must be [N, H, W, 3] or [N, H, W]")
    if 0 in shape:
        raise DataError(f"{images.where}: holds no row: its shape is {list(shape)}")
    return shape[0]


def _texts(array: Stored, count: int) -> Callable[[], Iterator[Item]]:
    if array.dtype.kind not in "USiu" or len(array.shape) not in (1, 2):
        rule = "must be texts, [N] or [N, K]; save np.array(captions, dtype=str)"
        raise DataError(f"{array.where}: has type {array.dtype} and shape {list(array.shape)}; it {rule}")
    if array.shape[0] != count:
        raise DataError(f"{array.where}: has {array.shape[0]:,} rows for {count:,} images; they must be as many")
    return array.items


def _lines(path: str) -> Callable[[], Iterator[str]]:
    def lines() -> Iterator[str]:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            yield from file

    return lines


def _together(streams: Mapping[str, Iterator[Any]]) -> Iterator[dict[str, Any]]:
    for image in streams["image"]:
        yield {"image": image, **{name: next(one, None) for name, one in streams.items() if name != "image"}}
    extra = sum(1 for line in streams["caption"] if isinstance(line, str) and line.strip())
    if extra:
        raise DataError(f"captions: there are {extra:,} lines more than images; they must be as many")


def _record(source: str, number: int, row: Mapping[str, Any]) -> Record | Rejected:
    where, key = f"{source}: row {number}", f"{number:09d}"
    try:
        if "id" in row:
            key = name_of(_plain(row["id"]), "id")
        captions = captions_of([_plain(row["caption"])])
    except BadRowError as bad:
        return bad.at(where, key)
    fields = {name.removeprefix("field."): plain(_plain(one)) for name, one in row.items() if name.startswith("field.")}
    pixels = row["image"]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    return Record(key, as_png(image), captions, where, {name: one for name, one in fields.items() if is_scalar(one)})


def _plain(value: Any) -> Any:
    """Return an item of an array as Python has it; bytes are taken for UTF-8."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
