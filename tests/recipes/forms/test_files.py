import os
from pathlib import Path

from contrastive.recipes.forms.files import folders, holds_images, images_beside, is_image
from tests.recipes.forms.trees import write_images


def test_folders_are_walked_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, "b/2.png", "b/10.png", "a/z/1.png", "a/1.png", "c.png", ".x/1.png")
    found = [(one.below, one.files) for one in folders(str(tmp_path))]
    assert found == [("", ["c.png"]), ("a", ["1.png"]), ("a/z", ["1.png"]), ("b", ["10.png", "2.png"])]
    walked = [os.path.relpath(path, tmp_path) for path, _, _ in os.walk(tmp_path)]
    assert {below or "." for below, _ in found} == {one for one in walked if one != ".x"}


def test_images_are_told_by_their_endings(tmp_path: Path) -> None:
    assert [is_image(name) for name in ("a.JPG", "a.jpeg", "a.webp", "a.txt", "jpg", "a.jpg.txt")] == [1, 1, 1, 0, 0, 0]
    assert not holds_images(str(tmp_path))
    write_images(tmp_path, "a/b/c.Tiff")
    assert holds_images(str(tmp_path))


def test_the_first_folder_that_holds_an_image_is_that_of_the_list(tmp_path: Path) -> None:
    write_images(tmp_path, "x/other.png", "y/1.png", "z/1.png")
    path = str(tmp_path / "lists" / "a.json")
    assert images_beside(path, None, ["../x", "../y", "../z"], ["0.png", "1.png"]) == str(tmp_path / "y")
