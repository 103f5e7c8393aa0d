from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import DataError
from contrastive.recipes.forms.coco import Coco
from tests.recipes.forms.trees import content, png, read, refused, said, write, write_images, write_json


def annotations(count: int = 3) -> dict[str, Any]:
    images = [
        {"id": 10 * n, "file_name": f"{n:012d}.jpg", "coco_url": f"http://x/{n}", "height": 4} for n in range(count)
    ]
    captions = [
        {"id": 100 + 10 * k + n, "image_id": 10 * n, "caption": f" caption {k} of {n}\n"}
        for k in range(2)
        for n in range(count)
    ]
    return {"info": {"year": 2017}, "images": images, "licenses": [], "annotations": captions}


def published(root: Path, split: str = "val2017", content: dict[str, Any] | None = None, images: str = "{}") -> Path:
    document = annotations() if content is None else content
    names = [one["file_name"] for one in document["images"] if isinstance(one, dict) and "file_name" in one]
    write_images(root / images.format(split), *names)
    return write_json(root / f"annotations/captions_{split}.json", document)


def test_images_have_all_their_captions_and_ids(tmp_path: Path) -> None:
    records, rejected = read(Coco(str(published(tmp_path))))
    document = annotations()
    assert not rejected
    for number, (record, image) in enumerate(zip(records, document["images"], strict=True)):
        own = [one for one in document["annotations"] if one["image_id"] == image["id"]]
        assert record.key == image["file_name"].removesuffix(".jpg")
        assert record.captions == tuple(one["caption"].strip() for one in own)
        ids = [one["id"] for one in own]
        assert record.fields == {"image_id": image["id"], "caption_ids": ids, "coco_url": image["coco_url"]}
        assert (content(record), record.split) == (png(number), "val")


@pytest.mark.parametrize("images", ["{}", "images", "images/{}", "annotations/{}", "annotations", "."])
def test_the_folder_of_the_images_is_found(tmp_path: Path, images: str) -> None:
    records, _ = read(Coco(str(published(tmp_path, images=images))))
    assert [content(record) for record in records] == [png(0), png(1), png(2)]


def test_the_folder_of_the_images_may_be_named(tmp_path: Path) -> None:
    path = published(tmp_path, images="far/away")
    assert "lie in none of" in refused(Coco, path, error=DataError)
    assert "name their folder with images=" in refused(Coco, path)
    records, _ = read(Coco(str(path), images=str(tmp_path / "far/away")))
    assert content(records[0]) == png(0)
    assert refused(Coco, path, images="/no/such") == "images: there is no folder /no/such"


def test_a_folder_gives_all_its_splits(tmp_path: Path) -> None:
    published(tmp_path, "val2017")
    published(tmp_path, "train2017")
    records, _ = read(Coco(str(tmp_path)))
    assert [record.split for record in records] == ["train"] * 3 + ["val"] * 3


def test_bad_entries_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    document = annotations(2)
    document["images"] += [
        {"id": 10, "file_name": "again.jpg"},
        {"id": 30, "file_name": "bare.jpg"},
        {"id": 40, "file_name": "blank.jpg"},
        {"id": "50", "file_name": "text.jpg"},
        {"id": 60},
        "odd",
    ]
    document["annotations"] += [
        {"id": 1, "image_id": 40, "caption": "  "},
        {"id": 2, "image_id": 999, "caption": "of nothing"},
        {"id": 3, "caption": "of nobody"},
        "odd",
    ]
    path = published(tmp_path, content=document)
    records, rejected = read(Coco(str(path)))
    assert list(said(records)) == ["000000000000", "000000000001"]
    assert sorted((one.where.partition(": ")[2], one.reason) for one in rejected) == [
        ("annotation 2", "image: missing"),
        ("annotation 6", "image: missing"),
        ("annotation 7", "image: missing"),
        ("image 10", "id: stands twice"),
        ("image 30", "caption: missing"),
        ("image 40", "caption: empty"),
        ("image 5", "id: missing"),
        ("image 6", "image: missing"),
        ("image 7", "id: missing"),
    ]


def test_what_is_no_such_document_is_refused(tmp_path: Path) -> None:
    assert "holds no annotations/captions_*.json" in refused(Coco, tmp_path)
    assert "there is no" in refused(Coco, tmp_path / "a.json")
    assert "is no JSON" in refused(Coco, write(tmp_path / "b.json", "{"))
    assert "has no 'images'; it has a" in refused(Coco, write_json(tmp_path / "c.json", {"a": []}))
    assert "holds no row" in refused(Coco, write_json(tmp_path / "d.json", {"images": [], "annotations": []}))
