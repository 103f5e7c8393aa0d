"""The annotations of COCO: captions as retrieval, objects as classes of which several are present.

ROOT/annotations/captions_SPLIT.json and instances_SPLIT.json, with images (id, file_name), annotations (id, image_id,
and caption or category_id) and categories (id, name); the images lie in ROOT/SPLIT/. https://cocodataset.org
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.errors import DataError
from contrastive.eval.formats.json_file import field, read_json, text_field
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Caption, Content, Kind, Sample, file_image

FOLDER = "annotations"
PREFIXES: dict[Kind, str] = {"retrieval": "captions", "multilabel": "instances"}
Images = dict[int, str]  # file name by id, in the order of the file


@dataclass(frozen=True)
class Coco:
    """The published folder; `images` is the folder of a split's images below the root, None: that named SPLIT.

    Without tasks its captions are read where there are any, else its objects. Crowds count as objects. Classes are the
    categories in the order of their ids, which have gaps.
    """

    images: str | None = None

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the images in the order of the file, with captions and classes; see `samples.Format`."""
        if not kinds:
            kinds = ("retrieval",) if _path(root, "retrieval", split).is_file() else ("multilabel",)
        kinds = kinds_to_read(kinds, tuple(PREFIXES), root)
        images: Images = {}
        captions: dict[int, list[Caption]] = {}
        labels: dict[int, set[int]] = {}
        classnames: tuple[str, ...] = ()
        for kind in kinds:
            path = _path(root, kind, split)
            content = read_json(path)
            found = _images(content, path)
            if images and found.keys() != images.keys():
                odd = min(found.keys() ^ images.keys())
                raise DataError(f"{path}: lists other images than {PREFIXES[kinds[0]]}_{split}.json, such as id {odd}")
            images = images or found
            if kind == "retrieval":
                captions = _captions(content, path, images)
            else:
                classnames, labels = _objects(content, path, images)
        folder = Path(split if self.images is None else self.images)
        samples = [
            Sample(
                file_image(root, str(folder / name)),
                labels=tuple(sorted(labels.get(id_, ()))),
                captions=tuple(captions.get(id_, ())),
            )
            for id_, name in images.items()
        ]
        return Content(samples, kinds, classnames)


def _path(root: Path, kind: Kind, split: str) -> Path:
    return root / FOLDER / f"{PREFIXES[kind]}_{split}.json"


def _images(content: Any, path: Path) -> Images:
    images: Images = {}
    for number, image in enumerate(field(content, "images", list, str(path))):
        id_ = field(image, "id", int, f"{path}: image {number}")
        if id_ in images:
            raise DataError(f"{path}: image id {id_} stands twice; give every image its own id")
        images[id_] = field(image, "file_name", str, f"{path}: image {id_}")
    return images


def _annotations(content: Any, path: Path, images: Images) -> list[tuple[int, Any, str]]:
    """Return every annotation with the id of its image, and how messages name it."""
    found = []
    for number, annotation in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}: annotation {number}"
        image = field(annotation, "image_id", int, where)
        if image not in images:
            raise DataError(
                f"{where}: image_id {image} is no image of the file; add the image or remove the annotation"
            )
        found.append((image, annotation, where))
    return found


def _captions(content: Any, path: Path, images: Images) -> dict[int, list[Caption]]:
    captions: dict[int, list[Caption]] = {}
    seen: set[int] = set()
    for image, annotation, where in _annotations(content, path, images):
        id_ = field(annotation, "id", int, where)
        if id_ in seen:
            raise DataError(f"{where}: id {id_} stands twice; give every caption its own id")
        seen.add(id_)
        captions.setdefault(image, []).append(Caption(text_field(annotation, "caption", where), str(id_)))
    return captions


def _objects(content: Any, path: Path, images: Images) -> tuple[tuple[str, ...], dict[int, set[int]]]:
    """Return the class names, and the classes of images by id."""
    names: dict[int, str] = {}
    for number, category in enumerate(field(content, "categories", list, str(path))):
        where = f"{path}: category {number}"
        id_ = field(category, "id", int, where)
        if id_ in names:
            raise DataError(f"{where}: id {id_} stands twice; give every category its own id")
        names[id_] = text_field(category, "name", where)
    place = {id_: index for index, id_ in enumerate(sorted(names))}
    labels: dict[int, set[int]] = {}
    for image, annotation, where in _annotations(content, path, images):
        category = field(annotation, "category_id", int, where)
        if category not in place:
            raise DataError(f"{where}: category_id {category} is no category of the file; mend it")
        labels.setdefault(image, set()).add(place[category])
    return tuple(names[id_] for id_ in sorted(names)), labels
