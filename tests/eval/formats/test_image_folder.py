import os
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder as Reference

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.image_folder import ImageFolder
from tests.eval.formats.trees import names, refused, texts, write_images

FILES = ("cat/b.jpg", "cat/a.PNG", "big_dog/x/y/1.webp", "big_dog/2.tif", "Zebra/z.bmp", "ant/1.jpeg")


def tree(root: Path, *files: str) -> Path:
    write_images(root / "test", *(files or FILES))
    return root


def test_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    content = ImageFolder().read(tree(tmp_path), "test", ())
    assert content.kinds == ("classification",)
    expected = {
        str(Path(path).relative_to(tmp_path)): label for path, label in Reference(str(tmp_path / "test")).samples
    }
    assert {sample.image.name: sample.label for sample in content.samples} == expected


def test_folder_names_are_class_names(tmp_path: Path) -> None:
    assert ImageFolder().read(tree(tmp_path), "test", ()).classnames == ("Zebra", "ant", "big dog", "cat")


def test_classes_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    content = ImageFolder().read(tree(tmp_path) / "test", ".", ())
    assert names(content)[0] == "Zebra/z.bmp"
    assert [sample.label for sample in content.samples] == [0, 1, 2, 2, 3, 3]
    content.samples[0].image.decode()


def test_other_files_and_hidden_folders_are_no_images(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/.2.jpg", ".cache/3.jpg", "a/notes.md", "a/4.txt", ".DS_Store")
    content = ImageFolder().read(tmp_path, "test", ())
    assert (names(content), content.classnames) == (["test/a/1.jpg"], ("a",))


def test_numbered_folders_are_refused_where_sorting_would_shift_labels(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number}/a.jpg" for number in range(11)))
    found = refused(ImageFolder(), tmp_path, error=ConfigError)
    assert "its folders are numbers, and sorted as names '10' would get label 2" in found
    by_number = ImageFolder("number").read(tmp_path, "test", ())
    assert {sample.image.name: sample.label for sample in by_number.samples}["test/10/a.jpg"] == 10
    assert by_number.classnames == ()
    by_name = ImageFolder("name").read(tmp_path, "test", ())
    assert {sample.image.name: sample.label for sample in by_name.samples}["test/10/a.jpg"] == 2


def test_numbers_that_sort_as_names_do_need_no_option(tmp_path: Path) -> None:
    content = ImageFolder().read(tree(tmp_path, "00/a.jpg", "01/a.jpg", "02/a.jpg"), "test", ())
    assert [sample.label for sample in content.samples] == [0, 1, 2]


def test_a_folder_that_is_no_number_is_refused_where_numbers_are_asked_for(tmp_path: Path) -> None:
    assert "test/b: is no number" in refused(ImageFolder("number"), tree(tmp_path, "0/a.jpg", "b/a.jpg"))


def test_captions_lie_beside_their_images(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "test/1.txt").write_text("a café\na house\n", encoding="utf-8")
    (tmp_path / "test/2.txt").write_text("a dog")
    content = ImageFolder().read(tmp_path, "test", ())
    assert content.kinds == ("retrieval",)
    assert texts(content) == [["a café", "a house"], ["a dog"]]


def test_class_folders_may_hold_captions_too(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/1.jpg")
    for name in "ab":
        (tmp_path / f"test/{name}/1.txt").write_text(f"an {name}")
    content = ImageFolder().read(tmp_path, "test", ("classification", "retrieval"))
    assert [(sample.label, sample.captions[0].text) for sample in content.samples] == [(0, "an a"), (1, "an b")]


def test_captions_and_images_without_each_other_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "test/1.txt").write_text("a cat")
    assert "test/2.jpg: has no caption" in refused(ImageFolder(), tmp_path, error=DataError)
    (tmp_path / "test/2.txt").write_text("a cat")
    (tmp_path / "test/3.txt").write_text("a cat")
    assert "test/3.txt: has no image beside it" in refused(ImageFolder(), tmp_path)
    (tmp_path / "test/3.txt").unlink()
    (tmp_path / "test/2.txt").write_text(" \n")
    assert "2.txt is empty" in refused(ImageFolder(), tmp_path)


def test_an_image_outside_the_classes_is_refused(tmp_path: Path) -> None:
    found = refused(ImageFolder(), tree(tmp_path, "a/1.jpg", "2.jpg"), kinds=("classification",))
    assert "test/2.jpg: lies in no class folder" in found


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    (tree(tmp_path) / "test/empty").mkdir()
    assert "test/empty: this class folder holds no image" in refused(ImageFolder(), tmp_path)


def test_missing_and_empty_splits_are_refused(tmp_path: Path) -> None:
    assert "there is no folder" in refused(ImageFolder(), tree(tmp_path), "val")
    (tmp_path / "val").mkdir()
    assert "val: holds no image" in refused(ImageFolder(), tmp_path, "val")


def test_a_link_to_nowhere_is_refused_by_path(tmp_path: Path) -> None:
    (tree(tmp_path) / "test/cat/c.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "test/cat/c.jpg: cannot be read" in refused(ImageFolder(), tmp_path)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", "1.jpg")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/a").symlink_to(tmp_path / "elsewhere")
    assert names(ImageFolder().read(tmp_path, "test", ())) == ["test/a/1.jpg"]


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    assert "no choice data" in refused(ImageFolder(), tree(tmp_path), "test", ("choice",), ConfigError)


def test_each_file_is_asked_once_and_none_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "test/a"
    folder.mkdir(parents=True)
    for number in range(200):
        (folder / f"{number}.jpg").touch()
    asked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: (asked.append(str(path)), stat(path, **options))[1])
    monkeypatch.setattr("builtins.open", None)
    assert len(ImageFolder().read(tmp_path, "test", ()).samples) == 200
    monkeypatch.undo()
    assert sorted(path for path in asked if path.endswith(".jpg")) == sorted(map(str, folder.iterdir()))
    assert len(asked) < 220
