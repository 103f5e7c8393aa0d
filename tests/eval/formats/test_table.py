import time
from pathlib import Path

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.table import Table
from tests.eval.formats.trees import names, refused, texts, write_images

CAPTIONS = "image,caption\na.jpg,a cat\nb.jpg,a dog\na.jpg,one cat\n"


def tree(root: Path, content: str = CAPTIONS, name: str = "test.csv") -> Path:
    write_images(root, "a.jpg", "b.jpg")
    (root / name).write_text(content, encoding="utf-8")
    return root


def test_the_table_of_the_split_is_read(tmp_path: Path) -> None:
    tree(tmp_path, "image,caption\nb.jpg,x\n", "val.csv")
    content = Table().read(tree(tmp_path), "test", ())
    assert content.kinds == ("retrieval",)
    assert (names(content), texts(content)) == (["a.jpg", "b.jpg"], [["a cat", "one cat"], ["a dog"]])
    content.samples[0].image.decode()
    assert texts(Table().read(tmp_path, "val", ())) == [["x"]]


def test_images_may_lie_in_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", "a.jpg", "b.jpg")
    (tmp_path / "test.csv").write_text(CAPTIONS)
    assert names(Table(images="photos").read(tmp_path, "test", ())) == ["photos/a.jpg", "photos/b.jpg"]


def test_a_column_may_say_the_split(tmp_path: Path) -> None:
    tree(tmp_path, "image,caption,split\na.jpg,x,train\nb.jpg,y,test\n", "all.csv")
    assert texts(Table().read(tmp_path / "all.csv", "test", ())) == [["y"]]
    found = refused(Table(), tmp_path / "all.csv", "val")
    assert "all.csv: no row has split 'val'; there are test, train" in found


def test_lines_are_counted_in_the_whole_file(tmp_path: Path) -> None:
    tree(tmp_path, "image,caption,split\na.jpg,x,train\nb.jpg,,test\n", "all.csv")
    assert "all.csv: line 3: the caption is empty" in refused(Table(), tmp_path / "all.csv")


def test_a_file_without_splits_is_one_split_only(tmp_path: Path) -> None:
    path = tree(tmp_path) / "test.csv"
    assert len(Table().read(path, "test", ()).samples) == 2
    assert "has no column 'split' to find split 'train' by" in refused(Table(), path, "train", error=ConfigError)


def test_the_folder_may_name_the_classes(tmp_path: Path) -> None:
    tree(tmp_path, "image\tlabel\na.jpg\tdog\nb.jpg\tcow\n", "test.tsv")
    assert Table().read(tmp_path, "test", ()).classnames == ("cow", "dog")
    (tmp_path / "classnames.txt").write_text("dog\nant\ncow\n")
    content = Table().read(tmp_path, "test", ())
    assert (content.classnames, [sample.label for sample in content.samples]) == (("dog", "ant", "cow"), [0, 2])


def test_the_options_name_the_classes_first(tmp_path: Path) -> None:
    tree(tmp_path, "image,label\na.jpg,dog\n")
    (tmp_path / "classnames.txt").write_text("cow\n")
    assert Table(classes=("ant", "dog")).read(tmp_path, "test", ()).samples[0].label == 1
    (tmp_path / "names.txt").write_text("ant\nfox\ndog\n")
    assert Table(classes=str(tmp_path / "names.txt")).read(tmp_path, "test", ()).samples[0].label == 2
    assert "label 'dog' is none of the 1 classes (cow)" in refused(Table(), tmp_path)


def test_another_separator_may_part_labels(tmp_path: Path) -> None:
    tree(tmp_path, "image,labels\na.jpg,x;y\n")
    assert Table(separator=";").read(tmp_path, "test", ()).samples[0].labels == (0, 1)
    assert "format.separator: is empty" in refused(Table(separator=""), tmp_path)


def test_a_missing_image_is_refused_by_line(tmp_path: Path) -> None:
    tree(tmp_path, "image,caption\na.jpg,x\nc.jpg,y\n")
    found = refused(Table(), tmp_path)
    assert "test.csv: line 3: " in found
    assert "c.jpg: there is no such image" in found


def test_an_image_that_is_no_path_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, '{"image": 7, "caption": "x"}', "test.jsonl")
    assert "line 1: image: '7' must be the path of an image file" in refused(Table(), tmp_path)


def test_a_missing_or_ambiguous_table_is_refused(tmp_path: Path) -> None:
    assert "test.csv; write it (or .tsv, .jsonl, .parquet)" in refused(Table(), tmp_path)
    tree(tmp_path)
    assert "val.csv; set split to one of test.csv" in refused(Table(), tmp_path, "val")
    tree(tmp_path, CAPTIONS.replace(",", "\t"), "test.tsv")
    assert "several tables of split 'test' (test.csv, test.tsv)" in refused(Table(), tmp_path)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds(tmp_path: Path) -> None:
    lines = [f"{number // 5}.jpg,caption {number}" for number in range(100_000)]
    for number in range(20_000):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "test.csv").write_text("image,caption\n" + "\n".join(lines))
    start = time.process_time()
    assert len(Table().read(tmp_path, "test", ()).samples) == 20_000
    assert time.process_time() - start < 3
