"""Every YAML of docs/evaluation-data.md, run on data that lie as the page says."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.spec import DatasetSpec
from contrastive.registry import EVAL_FORMATS
from tests import toys
from tests.eval.formats.trees import write_images, write_json
from tests.eval.toys import write_classes, write_folder

PAGE = Path(__file__).parents[3] / "docs" / "evaluation-data.md"
SPECS: list[dict[str, Any]] = [
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
]


def pets() -> None:
    write_classes(write_folder(Path("data/pets"), [{"cls": "0"}, {"cls": "1"}]), ["cat", "dog"])


def flowers() -> None:
    write_images(Path("data/flowers/test"), "sun_flower/1.jpg", "tulip/more/2.png")


def imagenet_v2() -> None:
    write_images(Path("data/imagenetv2"), *(f"{number}/a.jpg" for number in range(11)))


def holiday() -> None:
    write_images(Path("data/holiday/test"), "1.jpg")
    Path("data/holiday/test/1.txt").write_text("a beach\na sea\n")


def shop() -> None:
    write_images(Path("data/shop/photos"), "a.jpg", "b.jpg")
    (content,) = re.findall(r"^```\n(filepath,.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    Path("data/shop/test.csv").write_text(content)


def animals() -> None:
    write_images(Path("data/animals"), "a.jpg", "b.jpg", "c.jpg")
    table = {"file": ["a.jpg", "b.jpg", "c.jpg"], "species": ["cow", "cat", "cat"], "split": ["test", "test", "train"]}
    parquet.write_table(pa.table(table), "data/animals/all.parquet")


def scenes() -> None:
    write_images(Path("data/scenes"), "a.jpg", "b.jpg")
    Path("data/scenes/val.tsv").write_text("image\ttags\na.jpg\tsea;sky\nb.jpg\t\n")


def coco_5k() -> None:
    name = "COCO_val2014_000000391895.jpg"
    write_images(Path("data/coco/val2014"), name)
    sentences = [{"raw": "a man", "sentid": 1}, {"raw": "a hill", "sentid": 2}]
    image = {"filename": name, "filepath": "val2014", "split": "test", "sentences": sentences}
    write_json(Path("data/coco/dataset_coco.json"), {"images": [image]})


def flickr30k() -> None:
    write_images(Path("data/flickr30k/flickr30k-images"), "1.jpg")
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "two men", "sentid": 0}]}
    write_json(Path("data/flickr30k/dataset_flickr30k.json"), {"images": [image]})


def coco() -> None:
    write_images(Path("data/coco/val2017"), "000000000139.jpg")
    images = [{"id": 139, "file_name": "000000000139.jpg"}]
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    folder = Path("data/coco/annotations")
    captions = [{"id": 5, "image_id": 139, "caption": "a room"}]
    write_json(folder / "captions_val2017.json", {"images": images, "annotations": captions})
    objects = [{"id": 1, "image_id": 139, "category_id": 90}]
    content = {"images": images, "annotations": objects, "categories": categories}
    write_json(folder / "instances_val2017.json", content)


def birds() -> None:
    import datasets

    labels = datasets.ClassLabel(names=["crow", "wren"])
    features = datasets.Features({"image": datasets.Image(), "species": labels})
    picture = {"bytes": toys.encode(toys.image(0)), "path": None}
    table = datasets.Dataset.from_dict({"image": [picture], "species": [1]}, features=features)
    datasets.DatasetDict({"test": table}).save_to_disk("data/birds")


def web_val() -> None:
    toys.write_shards(Path("data/web/val"), 3)


def sugar_crepe() -> None:
    write_images(Path("data/sugar_crepe/val2017"), "1.jpg")
    entry = {"filename": "1.jpg", "caption": "a cat", "negative_caption": "a dog"}
    for name in ("add_att", "swap_obj"):
        write_json(Path(f"data/sugar_crepe/{name}.json"), {"0": entry})


def winoground() -> None:
    write_images(Path("data/winoground/images"), "ex_0_img_0.png", "ex_0_img_1.png")
    images = {f"image_{side}": f"ex_0_img_{side}" for side in (0, 1)}
    example = {**images, "caption_0": "a b", "caption_1": "b a", "collapsed_tag": "Object"}
    Path("data/winoground/examples.jsonl").write_text(json.dumps(example) + "\n")


# By name of the YAML: what makes its data, and what is to be seen in them.
MADE: dict[str, tuple[Callable[[], None], Callable[[EvalDataset], bool]]] = {
    "pets": (pets, lambda d: d.labels == (0, 1) and len(d.prompts[0]) == 2),
    "flowers": (flowers, lambda d: d.labels == (0, 1) and d.classnames == ("sun flower", "tulip")),
    "imagenet-v2": (imagenet_v2, lambda d: sorted(d.labels) == list(range(11))),
    "holiday": (holiday, lambda d: d.texts == ("a beach", "a sea") and d.captions == ((0, 1),)),
    "shop": (shop, lambda d: d.captions == ((0, 1), (2,)) and d.texts[1] == "a shoe, seen from the side"),
    "animals": (animals, lambda d: d.labels == (2, 0) and d.train is not None and d.train.labels == (0,)),
    "scenes": (scenes, lambda d: d.label_sets == ((0, 1), ()) and d.classnames == ("sea", "sky")),
    "coco-5k": (coco_5k, lambda d: d.captions == ((0, 1),)),
    "flickr30k": (flickr30k, lambda d: d.captions == ((0,),)),
    "coco-captions": (coco, lambda d: d.texts == ("a room",)),
    "coco-objects": (coco, lambda d: d.label_sets == ((1,),)),
    "birds": (birds, lambda d: d.labels == (1,) and d.classnames == ("crow", "wren")),
    "web-val": (web_val, lambda d: d.captions == ((0, 1, 2), (3, 4, 5), (6, 7, 8))),
    "sugar-crepe": (sugar_crepe, lambda d: len(d) == 1 and [c.category for c in d.choices] == ["add_att", "swap_obj"]),
    "winoground": (winoground, lambda d: [c.images for c in d.choices] == [(0, 1)]),
}
ONLINE = ("cifar10-hub",)


@pytest.mark.parametrize("values", SPECS, ids=lambda values: str(values["name"]))
def test_a_yaml_of_the_page_opens_its_layout(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DatasetSpec.from_dict(values, "the page")
    if spec.name in ONLINE:
        return
    if spec.format_spec["name"] == "hugging_face" and importlib.util.find_spec("datasets") is None:
        pytest.skip("needs the extra `datasets`: pip install datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    Path("data").mkdir()
    make, is_right = MADE[spec.name]
    make()
    dataset = open_dataset(spec)
    assert is_right(dataset)
    dataset.image(0)


def test_the_page_shows_every_layout() -> None:
    shown = {DatasetSpec.from_dict(values, "the page").format_spec["name"] for values in SPECS}
    assert shown == set(EVAL_FORMATS)
    assert {values["name"] for values in SPECS} == {*MADE, *ONLINE}
