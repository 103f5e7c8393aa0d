import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.winoground import Winoground
from contrastive.eval.samples import Choice
from tests.eval.formats.trees import names, refused, write_images


def example(number: int, **changes: Any) -> dict[str, Any]:
    images = {f"image_{side}": f"ex_{number}_img_{side}" for side in (0, 1)}
    texts = {"caption_0": "a cat on a dog", "caption_1": "a dog on a cat"}
    return {"id": number, **images, **texts, "tag": "Noun", "collapsed_tag": "Object", **changes}


def tree(root: Path, *examples: dict[str, Any]) -> Path:
    write_images(root / "images", *(f"ex_{number}_img_{side}.png" for number in (0, 1) for side in (0, 1)))
    lines = examples or (example(0), example(1, collapsed_tag="Relation"))
    (root / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_a_choice_has_two_images_and_their_captions(tmp_path: Path) -> None:
    content = Winoground().read(tree(tmp_path), "test", ())
    assert content.kinds == ("choice",)
    assert names(content) == [f"images/ex_{number}_img_{side}.png" for number in (0, 1) for side in (0, 1)]
    assert content.choices == (
        Choice((0, 1), ("a cat on a dog", "a dog on a cat"), "Object"),
        Choice((2, 3), ("a cat on a dog", "a dog on a cat"), "Relation"),
    )
    content.samples[0].image.decode()


def test_another_field_may_be_the_category(tmp_path: Path) -> None:
    assert {choice.category for choice in Winoground(category="tag").read(tree(tmp_path), "test", ()).choices} == {
        "Noun"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_1": "ex_0_img_0"}, "line 1: its two images, or its two captions, are the same"),
        ({"caption_0": "a dog on a cat"}, "cannot be told apart"),
        ({"caption_0": ""}, "line 1: caption_0 is empty"),
        ({"image_0": "gone"}, "gone.png: there is no such image"),
        ({"collapsed_tag": None}, "collapsed_tag: 'None' must be a text"),
    ],
)
def test_a_damaged_example_is_refused_by_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(Winoground(), tree(tmp_path, example(0, **changes)))


def test_other_splits_and_tasks_are_refused(tmp_path: Path) -> None:
    assert "'train': Winoground has one split" in refused(Winoground(), tree(tmp_path), "train", (), ConfigError)
    assert "no retrieval data" in refused(Winoground(), tmp_path, "test", ("retrieval",), ConfigError)


def test_missing_and_empty_lists_are_refused(tmp_path: Path) -> None:
    assert "there is no" in refused(Winoground(), tmp_path)
    (tmp_path / "examples.jsonl").write_text("\n")
    assert "examples.jsonl is empty" in refused(Winoground(), tmp_path)
