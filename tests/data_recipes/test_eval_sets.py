import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.data_recipes.stand_ins import ROOT, recipe

eval_sets = recipe("eval_sets")


def write_image(path: Path, color: str, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), color).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, as the roots of the YAMLs are relative to it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class Pets:
    """As torchvision's OxfordIIITPet, which holds paths and labels."""

    def __init__(self, root: str, split: str, download: bool) -> None:
        assert split == "test"
        assert download
        self._images = [Path(root) / f"{number}.jpg" for number in range(3)]
        self._labels = [2, 0, 1]
        for path in self._images:
            write_image(path, "red")


class Digits:
    """As torchvision's MNIST, which holds an array and its labels."""

    targets = (7, 2)

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert not train

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("L", (28, 28), 100 * number), self.targets[number]


def test_files_of_torchvision_become_what_the_yaml_reads_byte_for_byte(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", Pets)
    assert eval_sets.main(["--from", "torchvision", "--cache", "cache", "pets"]) == 1
    assert "pets: 3 of 3,669 images, 37 classes" in capsys.readouterr().out
    with tarfile.open(here / "data/eval/wds_vtab-pets/test/0.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert found["s0000000.cls"] == b"2"
    assert found["s0000001.jpg"] == Path("cache/1.jpg").read_bytes()


def test_arrays_of_torchvision_become_png(here: Path, monkeypatch) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST", Digits)
    assert eval_sets.main(["--from", "torchvision", "mnist"]) == 1
    with tarfile.open(here / "data/eval/wds_mnist/test/0.tar") as tar:
        assert tar.extractfile("s0000001.cls").read() == b"2"
        assert Image.open(tar.extractfile("s0000001.png")).getpixel((0, 0)) == (100, 100, 100)


def test_class_folders_called_by_numbers_are_read_by_their_numbers(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(eval_sets, "shipped", lambda key, name: tuple(f"{key} {n} {{c}}" for n in range(11)))
    for number in range(11):
        write_image(here / "source" / str(number) / "a.jpeg", "blue")
    assert eval_sets.main(["--from", "folder", "--source", "source", "imagenetv2"]) == 1
    with tarfile.open(here / "data/eval/wds_imagenetv2/test/0.tar") as tar:
        labels = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".cls")]
    assert labels == [str(number).encode() for number in range(11)]
    shutil.rmtree(here / "source" / "10")
    assert eval_sets.main(["--from", "folder", "--source", "source", "imagenetv2"]) == 2


def test_folders_of_another_set_are_refused(here: Path, capsys) -> None:
    write_image(here / "source" / "n01440764" / "a.jpg", "blue")
    assert eval_sets.main(["--from", "folder", "--source", "source", "imagenet-r"]) == 2
    assert "holds 1 class folders, not the 200 (such as n01440764) of the set" in capsys.readouterr().err


def test_the_hub_is_asked_by_the_hint_of_the_yaml(capsys) -> None:
    assert eval_sets.main(["--dry-run", "cifar10", "coco_karpathy"]) == 0
    said = capsys.readouterr().out
    assert "hf download clip-benchmark/wds_vtab-cifar10 --repo-type dataset" in said
    assert "caption_datasets.zip" in said


def test_images_that_were_asked_for_are_linked_where_the_yaml_looks(here: Path, capsys) -> None:
    root = here / "data/eval/flickr30k_karpathy"
    root.mkdir(parents=True)
    sentences = '[{"raw": "a man", "sentid": 0}]'
    row = f'{{"filename": "1.jpg", "split": "test", "sentences": {sentences}}}'
    (root / "dataset_flickr30k.json").write_text(f'{{"images": [{row}]}}')
    write_image(here / "asked" / "1.jpg", "green")
    words = ["--source", str(here / "asked"), "flickr30k_karpathy"]
    assert eval_sets.main(words) == 1
    assert "flickr30k_karpathy: 1 of 1,000 images" in capsys.readouterr().out
    assert (root / "images").samefile(here / "asked")
    assert eval_sets.main(words) == 1


def test_a_set_that_comes_from_elsewhere_is_refused_with_those_that_do(capsys) -> None:
    assert eval_sets.main(["--from", "torchvision", "winoground"]) == 2
    assert "winoground does not come from there; cifar10, cifar100" in capsys.readouterr().err
    assert eval_sets.main(["nothing"]) == 2
    assert "nothing: there is no" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*eval_sets.TORCHVISION, *eval_sets.FOLDERS])
def test_what_the_recipe_writes_has_the_classes_of_the_package_and_a_count(name: str) -> None:
    if name not in eval_sets.CLASSES and name not in ("imagenet1k", "imagenet-a", "imagenet-o", "imagenet-r"):
        assert eval_sets.shipped("classnames", name)
        assert eval_sets.shipped("templates", name)
    assert eval_sets.expected_images(ROOT / "configs" / "eval" / f"{name}.yaml")
