from pathlib import Path

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.sugar_crepe import SugarCrepe
from contrastive.eval.samples import Choice
from tests.eval.formats.trees import names, refused, write_images, write_json

ENTRY = {"filename": "1.jpg", "caption": "a cat", "negative_caption": "a dog"}


def tree(root: Path) -> Path:
    write_images(root / "val2017", "1.jpg", "2.jpg")
    other = {"filename": "2.jpg", "caption": "a red cat", "negative_caption": "a blue cat"}
    write_json(root / "swap_obj.json", {"0": ENTRY, "7": other})
    write_json(root / "add_att.json", {"0": {**other, "negative_caption": "a green cat"}})
    return root


def test_a_choice_is_an_image_with_its_caption_and_the_negative(tmp_path: Path) -> None:
    content = SugarCrepe().read(tree(tmp_path), "swap_obj", ())
    assert content.kinds == ("choice",)
    assert content.choices == (Choice((0,), ("a cat", "a dog")), Choice((1,), ("a red cat", "a blue cat")))
    assert names(content) == ["val2017/1.jpg", "val2017/2.jpg"]
    content.samples[1].image.decode()


def test_several_files_share_images_and_are_categories(tmp_path: Path) -> None:
    content = SugarCrepe().read(tree(tmp_path), "*", ("choice",))
    assert names(content) == ["val2017/2.jpg", "val2017/1.jpg"]
    assert [(choice.images, choice.category) for choice in content.choices] == [
        ((0,), "add_att"),
        ((1,), "swap_obj"),
        ((0,), "swap_obj"),
    ]


def test_the_folder_of_the_images_can_be_set(tmp_path: Path) -> None:
    write_images(tmp_path, "1.jpg")
    write_json(tmp_path / "test.json", {"0": ENTRY})
    assert names(SugarCrepe(images=".").read(tmp_path, "test", ())) == ["1.jpg"]


def test_an_unknown_file_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    assert "set split to one of add_att, swap_obj" in refused(SugarCrepe(), tree(tmp_path))
    assert "copy the published JSON files" in refused(SugarCrepe(), tmp_path / "val2017")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ENTRY, "negative_caption": "a cat "}, "entry '0': caption and negative_caption are the same"),
        ({**ENTRY, "caption": ""}, "entry '0': caption is empty"),
        ({"filename": "1.jpg", "caption": "a"}, "has no 'negative_caption'; it has filename, caption"),
        ({**ENTRY, "filename": "3.jpg"}, "3.jpg: there is no such image"),
        (["a"], "is no object"),
    ],
)
def test_a_damaged_entry_is_refused_by_name(tmp_path: Path, entry: object, message: str) -> None:
    write_json(tree(tmp_path) / "test.json", {"0": entry})
    assert message in refused(SugarCrepe(), tmp_path)
    write_json(tmp_path / "test.json", [entry])
    assert "must be an object of entries" in refused(SugarCrepe(), tmp_path)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    assert "no retrieval data" in refused(SugarCrepe(), tree(tmp_path), "*", ("retrieval",), ConfigError)
