from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.coco import Coco
from contrastive.eval.samples import Caption
from tests.eval.formats.trees import names, refused, write_images, write_json

IMAGES = [{"id": 30, "file_name": "c.jpg"}, {"id": 10, "file_name": "a.jpg"}]
CAPTIONS = [
    {"id": 5, "image_id": 10, "caption": "a cat"},
    {"id": 6, "image_id": 30, "caption": "a dog"},
    {"id": 7, "image_id": 10, "caption": "one cat"},
]
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
OBJECTS = [
    {"id": 1, "image_id": 10, "category_id": 90, "iscrowd": 0},
    {"id": 2, "image_id": 10, "category_id": 1, "iscrowd": 1},
    {"id": 3, "image_id": 10, "category_id": 90, "iscrowd": 0},
]


def tree(root: Path, captions: dict[str, Any] | None = None, objects: dict[str, Any] | None = None) -> Path:
    write_images(root / "val2017", "a.jpg", "c.jpg")
    folder = root / "annotations"
    said = {"images": IMAGES, "annotations": CAPTIONS, **(captions or {})}
    write_json(folder / "captions_val2017.json", said)
    seen = {"images": IMAGES, "annotations": OBJECTS, "categories": CATEGORIES, **(objects or {})}
    write_json(folder / "instances_val2017.json", seen)
    return root


def test_captions_belong_to_images_by_id(tmp_path: Path) -> None:
    content = Coco().read(tree(tmp_path), "val2017", ())
    assert content.kinds == ("retrieval",)
    assert names(content) == ["val2017/c.jpg", "val2017/a.jpg"]
    assert [sample.captions for sample in content.samples] == [
        (Caption("a dog", "6"),),
        (Caption("a cat", "5"), Caption("one cat", "7")),
    ]
    content.samples[0].image.decode()


def test_classes_are_the_categories_in_the_order_of_their_ids(tmp_path: Path) -> None:
    content = Coco().read(tree(tmp_path), "val2017", ("multilabel",))
    assert content.classnames == ("person", "stop sign", "toothbrush")
    assert [sample.labels for sample in content.samples] == [(), (0, 2)]


def test_both_files_may_be_read_together(tmp_path: Path) -> None:
    content = Coco().read(tree(tmp_path), "val2017", ("multilabel", "retrieval"))
    assert content.kinds == ("multilabel", "retrieval")
    assert [(sample.labels, len(sample.captions)) for sample in content.samples] == [((), 1), ((0, 2), 2)]


def test_without_captions_the_objects_are_read(tmp_path: Path) -> None:
    (tree(tmp_path) / "annotations/captions_val2017.json").unlink()
    assert Coco().read(tmp_path, "val2017", ()).kinds == ("multilabel",)


def test_the_folder_of_the_images_can_be_set(tmp_path: Path) -> None:
    (tree(tmp_path) / "val2017").rename(tmp_path / "photos")
    assert names(Coco(images="photos").read(tmp_path, "val2017", ())) == ["photos/c.jpg", "photos/a.jpg"]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({"annotations": [{**CAPTIONS[0], "image_id": 4}]}, "annotation 0: image_id 4 is no image of the file"),
        ({"annotations": [{**CAPTIONS[0], "caption": "\n"}]}, "annotation 0: caption is empty"),
        ({"annotations": [CAPTIONS[0], CAPTIONS[0]]}, "annotation 1: id 5 stands twice"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "image id 30 stands twice"),
        ({"images": [*IMAGES, {"id": 40, "file_name": "d.jpg"}]}, "d.jpg: there is no such image"),
        ({"images": {}}, "images: '{}' must be a list"),
    ],
)
def test_damaged_captions_are_refused_by_number(tmp_path: Path, captions: dict[str, Any], message: str) -> None:
    assert message in refused(Coco(), tree(tmp_path, captions), "val2017")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"annotations": [{**OBJECTS[0], "category_id": 2}]}, "annotation 0: category_id 2 is no category"),
        ({"categories": [CATEGORIES[0], CATEGORIES[0]]}, "category 1: id 90 stands twice"),
        ({"categories": [{"id": 1}]}, "category 0: has no 'name'; it has id"),
    ],
)
def test_damaged_objects_are_refused_by_number(tmp_path: Path, objects: dict[str, Any], message: str) -> None:
    assert message in refused(Coco(), tree(tmp_path, None, objects), "val2017", ("multilabel",))


def test_files_of_different_images_do_not_go_together(tmp_path: Path) -> None:
    tree(tmp_path, None, {"images": IMAGES[:1], "annotations": []})
    found = refused(Coco(), tmp_path, "val2017", ("retrieval", "multilabel"))
    assert "instances_val2017.json: lists other images than captions_val2017.json, such as id 10" in found


def test_missing_files_and_other_tasks_are_refused(tmp_path: Path) -> None:
    assert "there is no" in refused(Coco(), tree(tmp_path), "val2014")
    assert "no classification data" in refused(Coco(), tmp_path, "val2017", ("classification",), ConfigError)
