import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from contrastive.config import read_yaml
from contrastive.errors import DataError
from contrastive.eval.datasets import open_dataset
from contrastive.eval.spec import DatasetSpec

ROOT = Path(__file__).parents[2]
IMAGES = {"train2014/COCO_train2014_1.jpg": "red", "val2014/COCO_val2014_2.jpg": "blue"}


def recipe_module():
    spec = importlib.util.spec_from_file_location("xtd10_recipe", ROOT / "data_recipes" / "xtd10.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = recipe_module()


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """A checkout with one caption an image and language, and COCO's two folders."""
    source, coco = tmp_path / "source", tmp_path / "coco"
    for path, color in IMAGES.items():
        (coco / path).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), color).save(coco / path)
    for language, name in recipe.CAPTIONS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f'una "mela", {language}\nfiume\u2028{language}', encoding="utf-8")
    (source / recipe.NAMES).write_text("COCO_val2014_2.jpg\nCOCO_train2014_1.jpg")
    return source, coco


@pytest.mark.parametrize("language", recipe.CAPTIONS)
def test_the_shipped_yaml_reads_what_the_recipe_writes(language: str, sources, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, coco = sources
    assert recipe.main(["--source", str(source), "--coco", str(coco)]) == 0
    path = ROOT / "configs" / "eval" / f"xtd10_{language}.yaml"
    dataset = open_dataset(DatasetSpec.from_dict(read_yaml(path), str(path)))
    assert dataset.texts == (f'una "mela", {language}', f"fiume\u2028{language}")
    assert [dataset.image(index).getpixel((0, 0))[2] > 128 for index in range(2)] == [True, False]


def test_a_missing_image_or_caption_is_refused_and_nothing_is_written(sources, tmp_path: Path):
    source, coco = sources
    (source / recipe.CAPTIONS["ko"]).write_text("one")
    with pytest.raises(DataError, match=r"test_1kcaptions_ko\.txt: 1 captions for 2 images"):
        recipe.build(source, coco, tmp_path / "out")
    (source / recipe.CAPTIONS["ko"]).write_text("one\ntwo")
    (coco / "val2014" / "COCO_val2014_2.jpg").unlink()
    with pytest.raises(DataError, match=r"has no COCO_val2014_2\.jpg, nor have its folders"):
        recipe.build(source, coco, tmp_path / "out")
    assert not (tmp_path / "out").exists()
