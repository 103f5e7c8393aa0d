"""The Karpathy splits of COCO, Flickr30k and Flickr8k: one JSON of all images, each with its split and captions.

https://cs.stanford.edu/people/karpathy/deepimagesent/ (caption_datasets.zip)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contrastive.errors import DataError
from contrastive.recipes.forms.cells import BadRowError, Images, captions_of, is_scalar, plain, shown
from contrastive.recipes.forms.files import images_beside
from contrastive.recipes.forms.json_file import JsonFile
from contrastive.recipes.records import Record, Rejected

MERGED = {"restval": "train"}  # COCO's validation images beyond val and test
KEPT = ("imgid", "cocoid")
FOLDERS = (".", "images", "../images", "..", "flickr30k-images", "flickr30k_images", "Images", "Flicker8k_Dataset")


@dataclass(frozen=True)
class Karpathy:
    """dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json, or the folder that holds one of them.

    `images` is the folder below which the images lie (COCO: the one that holds train2014 and val2014); None: the first
    of the usual ones beside the JSON. The split is the file's own; COCO's restval is train.
    """

    source: str
    images: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be read at the door."""
        split_file(self.source)

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every image in the order of the file; see `Form`."""
        path = split_file(self.source)
        document = JsonFile(path)
        names = (_path(value) for _, value in document.items("images") if isinstance(value, dict))
        images = Images(images_beside(path, self.images, FOLDERS, filter(None, names)))
        number = -1
        for number, (_, value) in enumerate(document.items("images")):
            yield _record(value, images, f"{path}: image {number}")
        if number < 0:
            raise DataError(f"{path}: holds no row: its list of images is empty")


def split_file(source: str) -> str:
    """Return the JSON that a source names.

    Raises:
        DataError: there is none, or several.
    """
    source = os.path.expanduser(source)
    if not os.path.isdir(source):
        return source
    found = [name for name in sorted(os.listdir(source)) if name.startswith("dataset_") and name.endswith(".json")]
    if len(found) != 1:
        raise DataError(f"{source}: must hold one dataset_*.json, and there is {', '.join(found) or 'none'}; name it")
    return os.path.join(source, found[0])


def _record(value: Any, images: Images, where: str) -> Record | Rejected:
    name = ""
    try:
        name = _path(value)
        if not name:
            raise BadRowError("image: missing", f"{shown(value)} has no filename")
        content, key = images.file(name)
        sentences = value.get("sentences")
        held = [one for one in sentences if isinstance(one, dict)] if isinstance(sentences, list) else []
        captions = captions_of(one.get("raw") for one in held)
    except BadRowError as bad:
        return bad.at(where, name)
    ids = [plain(one.get("sentid")) for one in held if str(one.get("raw") or "").strip()]
    kept = {one: plain(value[one]) for one in KEPT if is_scalar(value.get(one))}
    split = value.get("split")
    own = MERGED.get(split, split) if isinstance(split, str) else None
    return Record(key, content, captions, where, {**kept, "caption_ids": ids}, split=own)


def _path(value: Any) -> str:
    """Return the path of an image below the folder of images, empty where the entry has none."""
    name = value.get("filename") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.strip():
        return ""
    folder = value.get("filepath")
    return os.path.join(folder, name) if isinstance(folder, str) else name
