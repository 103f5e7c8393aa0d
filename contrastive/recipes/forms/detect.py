"""Which form a source has, by what it looks like."""

import glob
import os
import re
from collections.abc import Callable

from contrastive.errors import DataError
from contrastive.recipes.forms.coco import PATTERN
from contrastive.recipes.forms.files import holds_images
from contrastive.recipes.forms.flickr import FILES, layout_of
from contrastive.recipes.forms.hugging_face import HUB, SAVED
from contrastive.recipes.forms.image_folder import TABLES
from contrastive.recipes.forms.json_file import JsonFile
from contrastive.recipes.forms.rows import is_table
from contrastive.registry import PACK_FORMS

TARS = (".tar", ".tar.gz", ".tgz")
ARRAYS = (".npz", ".npy")
KARPATHY = re.compile(r"dataset_\w+\.json")


def detect(source: str) -> str:
    """Return the name of the form that a source has.

    Raises:
        DataError: there is no such source, or nothing tells its form.
    """
    if source.startswith(HUB):
        return "hugging_face"
    path = os.path.expanduser(source.removeprefix("file://"))
    if "::" in source or "://" in path or source.startswith("pipe:"):
        return "shards"
    found = None
    if os.path.isdir(path):
        found = _of_folder(path)
    elif os.path.exists(path):
        found = _of_file(path)
    elif path.endswith(TARS):
        return "shards"  # a brace pattern, or a file whose absence the form tells
    elif glob.has_magic(path):
        hits = sorted(glob.glob(path, recursive=True))
        found = _of_file(hits[0]) if hits else None
    if found is None:
        what = "its form is not told by what it looks like" if os.path.exists(path) else "there is no such source"
        raise DataError(f"{source}: {what}; name its form with --from: {', '.join(sorted(PACK_FORMS))}")
    return found


def _of_file(path: str) -> str | None:
    name = path.lower()
    if name.endswith(TARS):
        return "shards"
    if name.endswith(ARRAYS):
        return "numpy"
    if name.endswith((".json", ".json.gz")):
        return _of_json(path)
    if name.endswith((".csv", ".txt", ".token")) and os.path.basename(path) in FILES and layout_of(path) is not None:
        return "flickr"
    if is_table(name):
        return "table"
    return "flickr" if name.endswith((".token", ".txt")) and layout_of(path) is not None else None


def _of_json(path: str) -> str | None:
    document = JsonFile(path)
    if document.is_list:
        return "table"
    if "annotations" in document.members and "images" in document.members:
        return "coco"
    if "images" in document.members:
        first = next((value for _, value in document.items("images")), None)
        return "karpathy" if isinstance(first, dict) and "sentences" in first else None
    return None


def _of_folder(path: str) -> str | None:
    names = os.listdir(path)

    def has(test: Callable[[str], object]) -> bool:
        return any(test(name) for name in names)

    annotations = os.path.join(path, "annotations")
    if has(lambda name: name in SAVED):
        return "hugging_face"
    if has(lambda name: name.endswith(TARS)):
        return "shards"
    inner = os.listdir(annotations) if os.path.isdir(annotations) else []
    if any(PATTERN.fullmatch(name) for name in (*names, *inner)):
        return "coco"
    if has(KARPATHY.fullmatch):
        return "karpathy"
    if any(name in names and layout_of(os.path.join(path, name)) for name in FILES):
        return "flickr"
    if has(lambda name: name in TABLES) or holds_images(path):
        return "image_folder"
    return "table" if has(lambda name: is_table(name) and not name.startswith(".")) else None
