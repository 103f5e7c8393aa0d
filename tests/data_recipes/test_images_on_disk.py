"""Recipes of images that lie here: each packed from a few images in the layout of its source."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data_recipes.stand_ins import recipe
from tests.toys import encode, image


def put(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image(number), "JPEG"))
    return path


def packed(shards: Path) -> dict[str, dict[str, Any]]:
    """Return the samples of shards by split and caption: their captions and fields."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(shards.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in [name for name in members if name.endswith(".txt")]:
            fields = json.loads(members[name.removesuffix(".txt") + ".json"])
            found.setdefault(path.parent.name, {})[members[name].decode()] = fields
    return found


def sentences(*texts: str) -> list[dict[str, Any]]:
    return [{"raw": text, "sentid": number} for number, text in enumerate(texts)]


def test_coco_is_packed_in_karpathys_split_with_all_captions(tmp_path: Path, capsys) -> None:
    rows = [("train2014", "train", 1), ("val2014", "restval", 2), ("val2014", "test", 3), ("val2014", "val", 4)]
    images = []
    for folder, split, number in rows:
        name = put(tmp_path / "coco" / folder / f"COCO_{folder}_{number:012d}.jpg", number).name
        own = sentences(f"a {number}", f"b {number}")
        images.append({"filepath": folder, "filename": name, "split": split, "cocoid": number, "sentences": own})
    (tmp_path / "coco" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    words = ["--source", str(tmp_path / "coco"), "--out", str(tmp_path / "out"), "--expect", "4"]
    assert recipe("coco").main(words) == 0
    found = packed(tmp_path / "out" / "shards")
    assert {split: sorted(samples) for split, samples in found.items()} == {
        "train": ["a 1", "a 2"], "test": ["a 3"], "val": ["a 4"]
    }  # fmt: skip
    assert found["train"]["a 2"]["captions"] == ["a 2", "b 2"]
    assert "4 samples, 100.0% of 4 images" in capsys.readouterr().out
    assert recipe("coco").main([*words[:4], "--step", "verify"]) == 1


def test_coco_of_2017_is_packed_by_its_two_files(tmp_path: Path) -> None:
    for split, number in (("train2017", 1), ("val2017", 2)):
        put(tmp_path / "coco" / split / f"{number:012d}.jpg", number)
        rows = {"images": [{"id": number, "file_name": f"{number:012d}.jpg"}],
                "annotations": [{"id": 7, "image_id": number, "caption": f"of {split}"}]}  # fmt: skip
        path = tmp_path / "coco" / "annotations" / f"captions_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
    words = ["--source", str(tmp_path / "coco"), "--out", str(tmp_path / "out"), "--split", "2017", "--step", "pack"]
    assert recipe("coco").main(words) == 0
    found = packed(tmp_path / "out" / "shards")
    assert sorted(text for samples in found.values() for text in samples) == ["of train2017", "of val2017"]
    assert len(found) == 2


def test_flickr30k_is_packed_by_karpathys_split_or_by_its_own_captions(tmp_path: Path, capsys) -> None:
    source = tmp_path / "flickr"
    for number in range(3):
        put(source / "flickr30k-images" / f"{number}.jpg", number)
    rows = [{"filename": f"{n}.jpg", "split": split, "sentences": sentences(f"man {n}")}
            for n, split in enumerate(("train", "val", "test"))]  # fmt: skip
    (source / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}))
    module = recipe("flickr30k")
    assert module.main(["--source", str(source), "--out", str(tmp_path / "a"), "--expect", "3"]) == 0
    assert sorted(packed(tmp_path / "a" / "shards")) == ["test", "train", "val"]
    lines = [f"{n}.jpg#{m}\tman {n} {m}" for n in range(3) for m in range(2)]
    (source / "results_20130124.token").write_text("\n".join(lines))
    words = ["--source", str(source), "--out", str(tmp_path / "b"), "--captions", "results_20130124.token"]
    assert module.main([*words, "--step", "pack"]) == 0
    assert packed(tmp_path / "b" / "shards")["shards"]["man 1 0"]["captions"] == ["man 1 0", "man 1 1"]
    capsys.readouterr()
    assert module.main(["--source", str(tmp_path / "none"), "--out", str(tmp_path / "c")]) == 2
    assert "no such folder; ask for the images first, see --help" in capsys.readouterr().err


def test_captions_of_imagenet_meet_their_images_and_those_without_are_counted(tmp_path: Path, capsys) -> None:
    for number in (1, 2, 4, 5):
        put(tmp_path / "train" / "n01440764" / f"n01440764_{number}.JPEG", number)
    row = {"wnid": "n01440764", "title": "My  fish", "tags": ["tench", "pond"], "description": "<b>big</b>\r\nfish"}
    bare = {"wnid": "n01440764", "title": None, "tags": [], "description": ""}
    rows = [{**(bare if n == 2 else row), "filename": f"n01440764_{n}.JPEG"} for n in range(1, 6)]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    words = ["--source", str(tmp_path / "captions.json"), "--images", str(tmp_path / "train")]
    assert recipe("imagenet_captions").main([*words, "--out", str(tmp_path / "out"), "--expect", "5"]) == 1
    ((caption, fields),) = packed(tmp_path / "out" / "shards")["shards"].items()
    assert caption == "My fish tench pond big fish"
    assert (fields["wnid"], fields["title"], fields["tags"]) == ("n01440764", "My fish", "tench pond")
    rejected = (tmp_path / "out" / "shards" / "rejected.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["reason"] for line in rejected) == ["caption: empty", "image: missing"]
    (tmp_path / "captions.json").write_text('{"images": []}')
    assert recipe("imagenet_captions").main([*words, "--out", str(tmp_path / "b"), "--step", "list"]) == 2
    assert "holds no list of filename, wnid, title" in capsys.readouterr().err


def test_images_that_the_tool_of_redcaps_fetched_are_packed(tmp_path: Path) -> None:
    put(tmp_path / "images" / "cats" / "x1.jpg", 1)
    rows = [{"image_id": name, "url": "u", "caption": f"cat {name}", "score": 3} for name in ("x1", "x2")]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "cats_2019.json").write_text(json.dumps({"annotations": rows}))
    words = ["--source", str(tmp_path / "annotations"), "--images", str(tmp_path / "images")]
    steps = ["--step", "list", "--step", "pack"]
    assert recipe("redcaps").main([*words, "--out", str(tmp_path / "out"), *steps]) == 0
    ((caption, fields),) = packed(tmp_path / "out" / "shards")["shards"].items()
    assert (caption, fields["subreddit"], fields["score"]) == ("cat x1", "cats", 3)


@pytest.mark.parametrize("expect", [2, 9])
def test_a_table_of_ones_own_is_packed_with_the_words_of_pack(expect: int, tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "photos.csv").write_text('file,title\nphotos/0.jpg,"a shoe, red"\nphotos/1.jpg,a hat\n')
    words = ["--source", str(tmp_path / "photos.csv"), "--out", str(tmp_path / "out"), "--expect", str(expect)]
    status = recipe("local").main([*words, "image=file", "caption=title", "--", "--shard-size", "1"])
    assert status == (0 if expect == 2 else 1)
    assert sorted(packed(tmp_path / "out" / "shards")["shards"]) == ["a hat", "a shoe, red"]
    assert len(list((tmp_path / "out" / "shards").glob("*.tar"))) == 2
