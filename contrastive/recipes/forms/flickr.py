"""The caption files of Flickr30k and Flickr8k, in all the forms in which they go round."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from contrastive.errors import DataError
from contrastive.recipes.forms import delimited
from contrastive.recipes.forms.cells import BadRowError, Images, captions_of, name_of, shown
from contrastive.recipes.forms.columns import Row
from contrastive.recipes.forms.files import LOOKED, images_beside
from contrastive.recipes.forms.rows import opened
from contrastive.recipes.records import Record, Rejected

TOKEN = re.compile(r"[^\t]+#\d+\t")  # 1000092795.jpg#0<TAB>Two young guys …
FILES = ("results_20130124.token", "flickr_annotations_30k.csv", "captions.txt", "results.csv", "Flickr8k.token.txt")
FOLDERS = (
    *("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images", "Images", "images"),
    *("Flicker8k_Dataset", "Flickr8k_Dataset", "../flickr30k-images", "../Images", "."),
)


class Layout(NamedTuple):
    """Which columns a file has: of images, captions, and splits where it knows them."""

    image: str
    caption: str
    split: str | None
    delimiter: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Flickr:
    """results_20130124.token (also Flickr8k.token.txt), captions.txt, results.csv or flickr_annotations_30k.csv.

    Or the folder of one of them. Which it is is told by the first line: image#number and a tab; a header of image and
    caption; of image_name, comment_number and comment; or of raw (a list of captions), filename and split. `images` is
    the folder of the images; None: the first of the usual ones beside the file.
    """

    source: str
    images: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        path = captions_file(self.source)
        if layout_of(path) is None:
            raise DataError(f"{path}: is no captions file of Flickr30k or Flickr8k; is it a table? (--from table)")

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every line; lines of an image follow one another, and are one sample; see `Form`."""
        path = captions_file(self.source)
        layout = layout_of(path)
        assert layout is not None, "the constructor has refused it"
        rows = _rows(path, layout)
        first = list(islice(rows, LOOKED))
        names = (str(row.values[layout.image]) for row in first if isinstance(row, Row))
        if not first:
            raise DataError(f"{path}: holds no row")
        images = Images(images_beside(path, self.images, FOLDERS, names))
        for row in chain(first, rows):
            yield row if isinstance(row, Rejected) else _record(row, layout, images)


def captions_file(source: str) -> str:
    """Return the file that a source names.

    Raises:
        DataError: a folder holds none.
    """
    source = os.path.expanduser(source)
    if not os.path.isdir(source):
        return source
    found = next((name for name in FILES if os.path.isfile(os.path.join(source, name))), None)
    if found is None:
        raise DataError(f"{source}: holds none of {', '.join(FILES)}; name the file itself")
    return os.path.join(source, found)


def layout_of(path: str) -> Layout | None:
    """Return how a file is laid out, None where it is no captions file of Flickr.

    Raises:
        DataError: it cannot be read.
    """
    with opened(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    if not first:
        raise DataError(f"{path}: holds no row")
    if TOKEN.match(first):
        return Layout("image", "caption", None, "\t", ())
    sign, names = delimited.header_of(first, path, (), None)
    for image, caption, split in (
        ("filename", "raw", "split"),
        ("image_name", "comment", None),
        ("image", "caption", None),
    ):
        if {image, caption, *([split] if split else [])} <= set(names):
            return Layout(image, caption, split, sign, tuple(names))
    return None


def _rows(path: str, layout: Layout) -> Iterator[Row | Rejected]:
    with opened(path) as lines:
        if not layout.columns:
            yield from (_token(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip())
            return
        before = next(number for number, line in enumerate(lines, 1) if line.strip())
        for number, cells in delimited.rows(lines, layout.delimiter, len(layout.columns)):
            where = f"{path}: line {before + number}"
            if isinstance(cells, BadRowError):
                yield cells.at(where)
            else:
                yield Row(where, dict(zip(layout.columns, map(str.strip, cells), strict=True)))


def _token(line: str, where: str) -> Row | Rejected:
    bad = delimited.undecoded(line)
    image, tab, caption = line.partition("\t")
    if bad is None and not tab:
        bad = BadRowError("row: wrong number of cells", f"{shown(line)} has no tab between image and caption")
    return (
        Row(where, {"image": image.rpartition("#")[0] or image, "caption": caption}) if bad is None else bad.at(where)
    )


def _record(row: Row, layout: Layout, images: Images) -> Record | Rejected:
    key, split = "", None
    try:
        content, key = images.of(row.values[layout.image])
        captions = captions_of([_texts(row.values[layout.caption], layout)])
        if layout.split is not None:
            split = name_of(row.values[layout.split], "split")
    except BadRowError as bad:
        return bad.at(row.where, key)
    return Record(key, content, captions, row.where, split=split)


def _texts(cell: str, layout: Layout) -> Any:
    """Return what a cell holds: where `raw` is the column a list of captions in JSON, else a caption."""
    if layout.caption != "raw":
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise BadRowError("caption: no list", f"its captions {shown(cell)} must be a list in JSON") from None
