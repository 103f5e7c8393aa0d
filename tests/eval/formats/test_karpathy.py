from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.karpathy import Karpathy
from contrastive.eval.samples import Caption
from tests.eval.formats.trees import names, refused, write_images, write_json


def entry(number: int, split: str = "test", **changes: Any) -> dict[str, Any]:
    sentences = [
        {"tokens": ["a"], "raw": f"caption {number} {way} ", "imgid": number, "sentid": 10 * number + way}
        for way in range(2)
    ]
    sentids = [sentence["sentid"] for sentence in sentences]
    name = {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentids": sentids}
    return {**name, "sentences": sentences, **changes}


def tree(root: Path, *entries: dict[str, Any], name: str = "dataset_flickr30k.json") -> Path:
    write_images(root, *(f"{number}.jpg" for number in range(4)))
    default = (entry(0), entry(1, "train"), entry(2), entry(3, "restval"))
    write_json(root / name, {"dataset": "x", "images": entries or default})
    return root


def test_images_of_the_split_come_with_all_captions_by_id(tmp_path: Path) -> None:
    content = Karpathy().read(tree(tmp_path), "test", ())
    assert content.kinds == ("retrieval",)
    assert names(content) == ["0.jpg", "2.jpg"]
    assert content.samples[1].captions == (Caption("caption 2 0 ", "20"), Caption("caption 2 1 ", "21"))
    content.samples[0].image.decode()


def test_restval_counts_as_train(tmp_path: Path) -> None:
    assert names(Karpathy().read(tree(tmp_path), "train", ())) == ["1.jpg", "3.jpg"]


def test_images_of_coco_lie_in_the_folder_that_the_file_names(tmp_path: Path) -> None:
    write_images(tmp_path / "images/val2014", "0.jpg")
    write_json(tmp_path / "dataset_coco.json", {"images": [entry(0, filepath="val2014")]})
    assert names(Karpathy(images="images").read(tmp_path, "test", ())) == ["images/val2014/0.jpg"]


def test_the_root_may_be_the_file(tmp_path: Path) -> None:
    tree(tmp_path, name="mine.json")
    assert names(Karpathy().read(tmp_path / "mine.json", "test", ())) == ["0.jpg", "2.jpg"]


def test_captions_without_ids_are_captions_of_their_own(tmp_path: Path) -> None:
    content = Karpathy().read(tree(tmp_path, entry(0, sentences=[{"raw": "a cat"}])), "test", ())
    assert content.samples[0].captions == (Caption("a cat", None),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": []}, "image 0 (0.jpg): has no caption"),
        ({"sentences": [{"raw": ""}]}, "image 0 (0.jpg): raw is empty"),
        ({"filename": "9.jpg"}, "9.jpg: there is no such image"),
        ({"split": 3}, "image 0: split: '3' must be a text"),
    ],
)
def test_a_damaged_image_is_refused_by_number_and_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(Karpathy(), tree(tmp_path, entry(0, **changes)))


def test_an_unknown_split_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    assert "has no split 'val'; it has test (2), train (2)" in refused(Karpathy(), tree(tmp_path), "val")


def test_one_file_must_be_told_from_several(tmp_path: Path) -> None:
    assert "there is none; or set root" in refused(Karpathy(), tmp_path)
    tree(tmp_path)
    tree(tmp_path, name="dataset_coco.json")
    assert "there is dataset_coco.json, dataset_flickr30k.json" in refused(Karpathy(), tmp_path)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    assert "no classification data" in refused(Karpathy(), tree(tmp_path), "test", ("classification",), ConfigError)
