from pathlib import Path
from typing import Any

import pytest

from contrastive.recipes.forms.karpathy import Karpathy
from tests.recipes.forms.trees import content, png, read, reasons, refused, said, write_images, write_json

SPLITS = ("train", "restval", "val", "test")


def entry(number: int, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": f"Caption {k}, of {number}. ", "tokens": [], "sentid": 10 * number + k} for k in range(2)]
    return {"filename": f"{number}.jpg", "imgid": number, "split": SPLITS[number], "sentences": sentences, **more}


def published(root: Path, images: list[Any], name: str = "coco") -> Path:
    return write_json(root / f"dataset_{name}.json", {"images": images, "dataset": name})


def test_images_have_their_captions_splits_and_ids(tmp_path: Path) -> None:
    folders = ["train2014", "val2014", "val2014", "val2014"]
    entries = [entry(number, filepath=folder, cocoid=100 + number) for number, folder in enumerate(folders)]
    write_images(tmp_path / "images", *(f"{one['filepath']}/{one['filename']}" for one in entries))
    records, rejected = read(Karpathy(str(published(tmp_path, entries))))
    assert not rejected
    assert [record.split for record in records] == ["train", "train", "val", "test"]
    assert [record.key for record in records] == ["train2014/0", "val2014/1", "val2014/2", "val2014/3"]
    assert [content(record) for record in records] == [png(number) for number in range(4)]
    for one, record in zip(entries, records, strict=True):
        assert record.captions == tuple(sentence["raw"].strip() for sentence in one["sentences"])
        ids = [sentence["sentid"] for sentence in one["sentences"]]
        assert record.fields == {"imgid": one["imgid"], "cocoid": one["cocoid"], "caption_ids": ids}


@pytest.mark.parametrize("folder", [".", "images", "flickr30k-images", "Images"])
def test_the_folder_of_the_images_is_found(tmp_path: Path, folder: str) -> None:
    write_images(tmp_path / folder, "0.jpg")
    published(tmp_path, [entry(0)], "flickr30k")
    (record,), _ = read(Karpathy(str(tmp_path)))
    assert (record.key, content(record)) == ("0", png(0))


def test_bad_entries_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    write_images(tmp_path, "0.jpg", "1.jpg")
    bare = entry(1, sentences=[])
    published(tmp_path, [entry(0), bare, {"split": "val"}, 5, entry(2, sentences=[{"raw": " "}]), entry(3, split=None)])
    records, rejected = read(Karpathy(str(tmp_path)))
    assert (list(said(records)), records[1].split) == (["0", "3"], None)
    assert reasons(rejected) == ["caption: missing", "image: missing", "image: missing", "caption: empty"]
    assert rejected[0].where.endswith("dataset_coco.json: image 1")


def test_what_is_no_such_document_is_refused(tmp_path: Path) -> None:
    assert "must hold one dataset_*.json, and there is none" in refused(Karpathy, tmp_path)
    published(tmp_path, [])
    assert "holds no row" in refused(Karpathy, tmp_path, images=str(tmp_path))
    published(tmp_path, [], "flickr8k")
    assert "there is dataset_coco.json, dataset_flickr8k.json; name it" in refused(Karpathy, tmp_path)
