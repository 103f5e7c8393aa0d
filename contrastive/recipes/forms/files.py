"""Image files below folders, and where the images of a list of annotations lie."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from contrastive.data.index import IMAGES
from contrastive.errors import DataError

IMAGE_ENDINGS = tuple(sorted(f".{kind}" for kind in IMAGES | {"jfif", "jpe", "pgm", "heic", "heif"}))
LOOKED = 100  # file names that are tried before a folder is said not to hold them
SHOWN = ", ".join((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", "…"))


class Folder(NamedTuple):
    """A folder below a root: its path, its path below the root (empty of the root itself), and its files, sorted."""

    path: str
    below: str
    files: list[str]


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGE_ENDINGS)


def folders(root: str) -> Iterator[Folder]:
    """Yield a folder and all below it, each before those that it holds, sorted by name; one folder is held at a time.

    Hidden files and folders are passed over. Links are followed, but none into a folder that it lies in itself. A
    folder that cannot be read has the file `""`.
    """
    yield from _folders(root, "", ())


def _folders(path: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Folder]:
    try:
        found = os.stat(path)
        own = (found.st_dev, found.st_ino)
        if own in above:
            return
        with os.scandir(path) as entries:
            shown = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
    except OSError:
        yield Folder(path, below, [""])
        return
    inner = [one.name for one in shown if one.is_dir()]
    yield Folder(path, below, [one.name for one in shown if not one.is_dir()])
    for name in inner:
        yield from _folders(f"{path}/{name}", f"{below}/{name}" if below else name, (*above, own))


def holds_images(root: str) -> bool:
    """Whether an image lies below a folder."""
    return any(is_image(name) for folder in folders(root) for name in folder.files)


def images_beside(path: str, given: str | None, candidates: Sequence[str], names: Iterable[str]) -> str:
    """Return the folder of the images that a list of annotations names, an absolute path.

    It is the one that a user has `given`; else the first of the `candidates` beside the list that holds one of the
    first `names`.

    Raises:
        DataError: there is no such folder.
    """
    beside = os.path.dirname(os.path.abspath(path))
    if given is not None:
        folder = os.path.abspath(os.path.expanduser(given))
        if not os.path.isdir(folder):
            raise DataError(f"images: there is no folder {folder}")
        return folder
    first = [name for _, name in zip(range(LOOKED), names, strict=False)]
    if not first:
        return beside  # whoever asked says that the list is empty
    places = [os.path.normpath(os.path.join(beside, candidate)) for candidate in candidates]
    for place in dict.fromkeys(places):
        if os.path.isdir(place) and any(os.path.exists(os.path.join(place, name)) for name in first):
            return place
    tried = ", ".join(dict.fromkeys(places))
    raise DataError(f"{path}: its images (such as {first[0]}) lie in none of {tried}; name their folder with images=")
