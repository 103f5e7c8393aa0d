"""Folders of image files: a folder a class, or images with their captions beside them.

Classification: ROOT/SPLIT/CLASS/**/IMAGE; classes are the folders sorted by name, as in torchvision's ImageFolder.
Retrieval: ROOT/SPLIT/**/NAME.jpg with NAME.txt, one caption a line.
https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.lines import read_lines
from contrastive.eval.samples import Caption, Content, FileImage, Kind, Sample

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


@dataclass(frozen=True)
class ImageFolder:
    """`split: .` is the root itself. Hidden folders are passed over.

    `labels` says what a folder's name is: `name`, a class name (`_` stands for a space) whose label is its place in the
    sorted names; `number`, the label itself. None: `name`, and refused where both are thinkable and differ.
    """

    labels: Literal["name", "number"] | None = None

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the images sorted by path, with classes and captions; see `samples.Format`.

        Without `kinds` a folder that holds images itself is one of captions, any other one of classes.
        """
        top = root / split
        if not top.is_dir():
            raise DataError(f"there is no folder {top}; set split to a folder of {root}, or to . for itself")
        found = _files(root, top)
        images = [file for file in found if file.relative.lower().endswith(ENDINGS)]
        if not images:
            raise DataError(f"{top}: holds no image; it needs files of {', '.join(ENDINGS)}")
        depth = len(Path(split).parts)
        if not kinds:
            is_flat = any(len(Path(image.relative).parts) == depth + 1 for image in images)
            kinds = ("retrieval",) if is_flat else ("classification",)
        kinds = kinds_to_read(kinds, ("classification", "retrieval"), top)
        classnames: tuple[str, ...] = ()
        labels = [-1] * len(images)
        captions: list[tuple[Caption, ...]] = [()] * len(images)
        if "classification" in kinds:
            classnames, labels = self._classes(top, [Path(image.relative).parts[depth:] for image in images])
        if "retrieval" in kinds:
            captions = _captions(root, found, images)
        samples = [Sample(*parts) for parts in zip(images, labels, [()] * len(images), captions, strict=True)]
        return Content(samples, kinds, classnames)

    def _classes(self, top: Path, images: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[int]]:
        """Return class names and labels of images by their paths below `top`."""
        stray = next((parts for parts in images if len(parts) == 1), None)
        if stray is not None:
            raise DataError(f"{top / stray[0]}: lies in no class folder; move it into one, or choose task: retrieval")
        folders = sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith("."))
        empty = set(folders) - {parts[0] for parts in images}
        if empty:
            raise DataError(f"{top / min(empty)}: this class folder holds no image; fill it, or remove it")
        labels = self._labels(top, folders)
        return (
            () if self.labels == "number" else tuple(name.replace("_", " ") for name in folders),
            [labels[parts[0]] for parts in images],
        )

    def _labels(self, top: Path, folders: Sequence[str]) -> dict[str, int]:
        numbers = {name: int(name) for name in folders if name.isascii() and name.isdigit()}
        if self.labels == "number":
            unnumbered = [name for name in folders if name not in numbers]
            if unnumbered:
                raise DataError(f"{top / unnumbered[0]}: is no number, which format.labels: number asks for; rename it")
            return numbers
        by_name = {name: index for index, name in enumerate(folders)}
        odd = next((name for name in folders if numbers.get(name, by_name[name]) != by_name[name]), None)
        if self.labels is None and odd is not None and len(numbers) == len(folders):
            raise ConfigError(
                f"{top}: its folders are numbers, and sorted as names {odd!r} would get label {by_name[odd]}; set "
                "format: {name: image_folder, labels: number}, or labels: name if that is meant"
            )
        return by_name


def _files(root: Path, top: Path) -> list[FileImage]:
    """Return all files below `top`, images or not, sorted by folder and name; names are relative to `root`."""
    found = []
    for folder, folders, names in os.walk(top, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else f"{Path(relative).as_posix()}/"
        shown = sorted(name for name in names if not name.startswith("."))
        found += [FileImage(str(root), prefix + name, _size(os.path.join(folder, name))) for name in shown]
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy it again or remove it") from None


def _captions(root: Path, files: Sequence[FileImage], images: Sequence[FileImage]) -> list[tuple[Caption, ...]]:
    """Return the captions beside every image."""
    texts = {os.path.splitext(file.relative)[0]: file.relative for file in files if file.relative.endswith(".txt")}
    captions = []
    stems = [os.path.splitext(image.relative)[0] for image in images]
    for stem, image in zip(stems, images, strict=True):
        if stem not in texts:
            raise DataError(f"{root / image.relative}: has no caption; write {root / stem}.txt, one caption a line")
        lines = read_lines(root / texts[stem], "captions", "one caption a line", None)
        captions.append(tuple(map(Caption, lines)))
    if lonely := sorted(texts.keys() - set(stems)):
        raise DataError(f"{root / texts[lonely[0]]}: has no image beside it; copy the image there or remove the text")
    return captions
