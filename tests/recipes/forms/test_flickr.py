import csv
import json
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes.forms.flickr import Flickr
from tests.recipes.forms.trees import content, lines, png, read, reasons, refused, write, write_images

ROWS = [("10.jpg", "Two men , smiling ."), ("10.jpg", 'A "nice" pair .'), ("20.jpg", "A dog runs .")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "flickr30k-images", "10.jpg", "20.jpg")
    return tmp_path


def require_rows(source: Path) -> None:
    records, rejected = read(Flickr(str(source)))
    assert not rejected
    assert [(f"{one.key}.jpg", caption) for one in records for caption in one.captions] == ROWS
    assert [content(records[0]), content(records[-1])] == [png(0), png(1)]


def test_the_token_file_is_read(root: Path) -> None:
    text = lines(*((f"{image}#{number}", caption) for number, (image, caption) in enumerate(ROWS)), separator="\t")
    require_rows(write(root / "results_20130124.token", text))
    require_rows(root)


def test_the_captions_of_flickr8k_are_read(root: Path) -> None:
    with (root / "captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *ROWS])
    require_rows(root / "captions.txt")


def test_the_table_with_bars_is_read_but_for_its_known_broken_row(root: Path) -> None:
    rows = [f"{image}| {number}| {caption}\n" for number, (image, caption) in enumerate(ROWS)]
    text = "image_name| comment_number| comment\n" + "".join(rows)
    require_rows(write(root / "results.csv", text))
    write(root / "results.csv", text + "2199200615.jpg| 4   A dog runs across the grass .\n")
    _, rejected = read(Flickr(str(root / "results.csv")))
    assert (reasons(rejected), rejected[0].where) == (["row: wrong number of cells"], f"{root / 'results.csv'}: line 5")


def test_the_annotations_of_the_hub_are_read_with_their_splits(root: Path) -> None:
    with (root / "flickr_annotations_30k.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        writer.writerow([json.dumps([ROWS[0][1], ROWS[1][1]]), "[0, 1]", "train", "10.jpg", 0])
        writer.writerow([json.dumps([ROWS[2][1]]), "[5]", "test", "20.jpg", 1])
    require_rows(root)
    records, _ = read(Flickr(str(root)))
    assert [record.split for record in records] == ["train", "test"]


def test_bad_lines_are_told_and_the_others_are_read(root: Path) -> None:
    text = b"10.jpg#0\tfine\n10.jpg#1\n10.jpg#2\t \n20.jpg#0\tcaf\xe9\n20.jpg#1\tfine\n"
    records, rejected = read(Flickr(str(write(root / "a.token", text))))
    assert [record.key for record in records] == ["10", "20"]
    assert reasons(rejected) == ["row: wrong number of cells", "caption: empty", "row: not UTF-8"]


def test_what_is_no_such_file_is_refused(root: Path) -> None:
    assert "is no captions file of Flickr30k or Flickr8k" in refused(Flickr, write(root / "a.csv", "a,b\n"))
    assert "holds none of results_20130124.token" in refused(Flickr, root / "flickr30k-images")
    assert refused(Flickr, write(root / "b.txt", ""), error=DataError) == f"{root / 'b.txt'}: holds no row"
    assert refused(Flickr, write(root / "captions.txt", "image,caption\n")).endswith("captions.txt: holds no row")
    missing = write(root / "c.token", "no.jpg#0\tx\n")
    assert "its images (such as no.jpg) lie in none of" in refused(Flickr, missing)
