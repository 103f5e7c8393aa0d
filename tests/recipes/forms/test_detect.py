from pathlib import Path

import numpy as np
import pytest

from contrastive import registry
from contrastive.errors import DataError
from contrastive.recipes.forms.detect import detect
from tests import toys
from tests.recipes.forms.trees import write, write_images, write_json


def sources(root: Path) -> list[tuple[str, str]]:
    """Write a source of every look, and return each with the form it has."""
    write_images(root / "photos", "deep/a.JPG")
    write_images(root / "hub", "train/a.png")
    write(root / "hub/metadata.csv", "file_name,text\n")
    toys.write_shards(root / "tars", 2, 1)
    write_json(root / "saved/state.json", {})
    write_json(root / "coco/annotations/captions_val2017.json", {"images": [], "annotations": []})
    write_json(root / "split/dataset_coco.json", {"images": [{"sentences": []}]})
    write(root / "flickr/results_20130124.token", "a.jpg#0\tA cat\n")
    write(root / "flickr8k/captions.txt", "image,caption\n")
    for name in ("a.csv", "a.tsv", "b.jsonl.gz", "c.parquet"):
        write(root / "tables" / name, "image,caption\n")
    write_json(root / "list.json", [{"image": "a"}])
    np.save(root / "a.npy", np.zeros(3))
    return [
        ("photos", "image_folder"),
        ("hub", "image_folder"),
        ("tars", "shards"),
        ("tars/00000.tar", "shards"),
        ("tars/{00000..00001}.tar", "shards"),
        ("tars/*.tar", "shards"),
        ("saved", "hugging_face"),
        ("coco", "coco"),
        ("coco/annotations", "coco"),
        ("coco/annotations/captions_val2017.json", "coco"),
        ("split", "karpathy"),
        ("split/dataset_coco.json", "karpathy"),
        ("flickr", "flickr"),
        ("flickr/results_20130124.token", "flickr"),
        ("flickr8k/captions.txt", "flickr"),
        ("tables", "table"),
        ("tables/a.csv", "table"),
        ("tables/a.tsv", "table"),
        ("tables/b.jsonl.gz", "table"),
        ("tables/c.parquet", "table"),
        ("tables/*.parquet", "table"),
        ("list.json", "table"),
        ("a.npy", "numpy"),
    ]


def test_every_form_is_told_by_its_looks(tmp_path: Path) -> None:
    for name, form in sources(tmp_path):
        assert (name, detect(str(tmp_path / name))) == (name, form)
    for address in ("s3://bucket/{000..010}.tar", "https://x.org/a.tar", "a.tar::b.tar", "pipe:cat a.tar"):
        assert detect(address) == "shards"
    assert detect("hf:org/name") == "hugging_face"


def test_what_tells_nothing_is_refused_with_the_forms(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", "x")
    forms = "name its form with --from: coco, flickr, hugging_face, image_folder, karpathy, numpy, shards, table"
    for path, what in ((tmp_path, "its form is not told"), (tmp_path / "a.xyz", "its form is not told")):
        with pytest.raises(DataError, match=what) as caught:
            detect(str(path))
        assert str(caught.value).endswith(forms)
    for missing in ("no", "no/*.csv"):
        with pytest.raises(DataError, match="there is no such source"):
            detect(str(tmp_path / missing))


@pytest.mark.parametrize("name", sorted(registry.PACK_FORMS))
def test_every_form_says_what_its_options_are(name: str) -> None:
    form = registry.find(registry.PACK_FORMS, name, "--from")
    text = form.__doc__ or ""
    _, options = registry.bind(registry.PACK_FORMS, {"name": name, "source": "x"}, "pack")
    assert options == {"source": "x"}
    fields = [one for one in form.__dataclass_fields__ if one != "source"]
    assert fields
    assert [one for one in fields if f"`{one}`" not in text] == []
