"""The captions of COCO: images and annotations in one JSON.

https://cocodataset.org/#format-data
"""

import os
import re
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.errors import DataError
from contrastive.recipes.forms.cells import BadRowError, Images, captions_of, is_scalar, plain, shown
from contrastive.recipes.forms.files import images_beside
from contrastive.recipes.forms.json_file import JsonFile
from contrastive.recipes.records import Record, Rejected

PATTERN = re.compile(r"captions?_(.+)\.json", re.IGNORECASE)
KEPT = ("license", "coco_url", "flickr_url", "date_captured")  # of an image, where they are there
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Coco:
    """A captions JSON, or the folder that holds annotations/captions_*.json, of which every one is read.

    `images` is the folder of the images; None: the one beside the JSON that holds them, such as train2017. Samples are
    named by their files; the json has image_id and the captions' ids. The split is what the file's name says.
    """

    source: str
    images: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        annotation_files(self.source)

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every image in the order of the file, and every annotation that is of none; see `Form`."""
        count = 0
        for path in annotation_files(self.source):
            for found in self._of(path):
                count += 1
                yield found
        if not count:
            raise DataError(f"{self.source}: holds no row: its list of images is empty")

    def _of(self, path: str) -> Iterator[Record | Rejected]:
        document = JsonFile(path)
        names = (value.get("file_name") for _, value in document.items("images") if isinstance(value, dict))
        texts = (name for name in names if isinstance(name, str) and name)
        stem = _split(path)
        guesses = [f"../{stem}", stem, "../images", "images", f"../images/{stem}", ".", ".."]
        images = Images(images_beside(path, self.images, guesses, texts))
        owners, places = yield from _annotations(document)
        split = re.match("train|val|test", stem)
        seen: set[int] = set()
        for number, (_, value) in enumerate(document.items("images")):
            where = f"{path}: image {number}"
            try:
                id_, name = _image(value)
                where = f"{path}: image {id_}"
                if id_ in seen:
                    raise BadRowError("id: stands twice", f"its id {id_} is another image's as well")
            except BadRowError as bad:
                yield bad.at(where)
                continue
            seen.add(id_)
            first, last = np.searchsorted(owners, [id_, id_ + 1])
            held = [document.at(int(place)) for place in places[first:last]]
            found = _record(value, images, name, held, where)
            yield replace(found, split=split.group()) if split and isinstance(found, Record) else found
        ids = np.array(sorted(seen), np.int64)
        for at in np.sort(places[~np.isin(owners, ids)]):
            value = document.at(int(at))
            rule = f"its image_id {value['image_id']} is no image of the file"
            yield BadRowError("image: missing", rule).at(f"{path}: annotation {shown(value.get('id'))}")


def annotation_files(source: str) -> list[str]:
    """Return the files of captions that a source names, sorted.

    Raises:
        DataError: there is none.
    """
    source = os.path.expanduser(source)
    if not os.path.isdir(source):
        return [source]
    found = []
    for folder in (os.path.join(source, "annotations"), source):
        if os.path.isdir(folder):
            found += [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if PATTERN.fullmatch(name)]
    if not found:
        raise DataError(f"{source}: holds no annotations/captions_*.json; name the JSON itself")
    return found


def _split(path: str) -> str:
    """Return what a file is of: `val2017` of captions_val2017.json, else its own name."""
    name = os.path.basename(path)
    found = PATTERN.fullmatch(name)
    return found.group(1) if found else os.path.splitext(name)[0]


def _annotations(document: JsonFile) -> Generator[Rejected, None, tuple[Places, Places]]:
    """Yield the annotations without an image's id; return the others' images, sorted, and places, int64 [N] each."""
    owners, places = array("q"), array("q")
    for number, (at, value) in enumerate(document.items("annotations")):
        owner = value.get("image_id") if isinstance(value, dict) else None
        if isinstance(owner, int) and not isinstance(owner, bool):
            owners.append(owner)
            places.append(at)
        else:
            rule = f"its image_id {shown(owner)} must be a whole number"
            yield BadRowError("image: missing", rule).at(f"{document.path}: annotation {number}")
    order = np.argsort(np.array(owners, np.int64), kind="stable")
    return np.array(owners, np.int64)[order], np.array(places, np.int64)[order]


def _image(value: Any) -> tuple[int, str]:
    """Return the id and the file name of an entry."""
    id_ = value.get("id") if isinstance(value, dict) else None
    if not isinstance(id_, int) or isinstance(id_, bool):
        raise BadRowError("id: missing", f"its id {shown(id_)} must be a whole number")
    name = value.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise BadRowError("image: missing", f"its file_name {shown(name)} must be a text")
    return id_, name


def _record(value: dict[str, Any], images: Images, name: str, held: list[Any], where: str) -> Record | Rejected:
    try:
        content, key = images.file(name)
        captions = captions_of(one.get("caption") for one in held)
    except BadRowError as bad:
        return bad.at(where, name)
    ids = [plain(one.get("id")) for one in held if str(one.get("caption") or "").strip()]
    kept = {one: plain(value[one]) for one in KEPT if is_scalar(value.get(one))}
    return Record(key, content, captions, where, {"image_id": value["id"], "caption_ids": ids, **kept})
