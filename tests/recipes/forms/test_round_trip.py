"""Every form packed and read back: images, captions and keys are those of the source, and equal sources equal tars."""

import csv
import importlib.util
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from contrastive import registry
from contrastive.recipes.engine import Local
from contrastive.recipes.packing.pack import Packing, pack
from tests.recipes.forms.trees import png, write, write_images, write_json

KEYS = [f"k{number}" for number in range(7)]
CAPTIONS = {key: [f'a "{key}", <b>&amp;</b> é', f"two\tof {key}"] for key in KEYS}
IMAGES = {key: png(number) for number, key in enumerate(KEYS)}
Options = dict[str, Any]


def rows(path: Path, **more: Any) -> list[dict[str, Any]]:
    """Return a row for each sample, whose images lie below a folder."""
    write_images(path, *(f"{key}.png" for key in KEYS))
    return [{"image": f"{key}.png", "caption": CAPTIONS[key], **more} for key in KEYS]


def as_csv(root: Path) -> tuple[Path, Options]:
    write_images(root, *(f"{key}.png" for key in KEYS))
    with (root / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["file", "text"])
        writer.writerows([f"{key}.png", text] for key in KEYS for text in CAPTIONS[key])
    return root / "rows.csv", {"image": "file", "caption": "text"}


def as_two_columns(root: Path) -> tuple[Path, Options]:
    write_images(root, *(f"{number}.png" for number in range(len(KEYS))))
    lines = ["image\tid\ten\tde\n"]
    lines += [
        f"{number}.png\t{key}\t" + "\t".join(map(quoted, CAPTIONS[key])) + "\n" for number, key in enumerate(KEYS)
    ]
    return write(root / "rows.tsv", "".join(lines)), {"id": "id", "caption": "en,de", "fields": ""}


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def as_json_lines(root: Path) -> tuple[Path, Options]:
    return write(root / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows(root))), {}


def as_parquet(root: Path) -> tuple[Path, Options]:
    root.mkdir()
    cells = [{"image": {"bytes": IMAGES[key], "path": None}, "caption": CAPTIONS[key], "uid": key} for key in KEYS]
    parquet.write_table(pa.Table.from_pylist(cells[:3]), root / "0.parquet")
    parquet.write_table(pa.Table.from_pylist(cells[3:]), root / "1.parquet")
    return root, {"id": "uid"}


def as_folder(root: Path) -> tuple[Path, Options]:
    write_images(root, *(f"{key}.png" for key in KEYS))
    for key in KEYS:
        write(root / f"{key}.txt", "\n".join(CAPTIONS[key]))
    return root, {}


def as_coco(root: Path) -> tuple[Path, Options]:
    write_images(root / "val2017", *(f"{key}.png" for key in KEYS))
    images = [{"id": number, "file_name": f"{key}.png"} for number, key in enumerate(KEYS)]
    texts = [(number, text) for number, key in enumerate(KEYS) for text in CAPTIONS[key]]
    captions = [{"id": id_, "image_id": number, "caption": text} for id_, (number, text) in enumerate(texts)]
    write_json(root / "annotations/captions_val2017.json", {"images": images, "annotations": captions})
    return root, {}


def as_karpathy(root: Path) -> tuple[Path, Options]:
    write_images(root / "images", *(f"{key}.png" for key in KEYS))
    images = [
        {"filename": f"{key}.png", "split": "train", "sentences": [{"raw": text} for text in CAPTIONS[key]]}
        for key in KEYS
    ]
    return write_json(root / "dataset_flickr8k.json", {"images": images}), {}


def as_flickr(root: Path) -> tuple[Path, Options]:
    write_images(root / "Images", *(f"{key}.png" for key in KEYS))
    lines = [f"{key}.png#{number}\t{text}\n" for key in KEYS for number, text in enumerate(CAPTIONS[key])]
    return write(root / "results_20130124.token", "".join(lines)), {}


def as_arrays(root: Path) -> tuple[Path, Options]:
    root.mkdir()
    images = np.stack([np.asarray(Image.open(io.BytesIO(IMAGES[key]))) for key in KEYS])
    np.savez(root / "a.npz", images=images, captions=[CAPTIONS[key] for key in KEYS], ids=KEYS)
    return root / "a.npz", {"ids": "ids"}


def as_shards(root: Path) -> tuple[Path, Options]:
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
        for key in KEYS:
            said = json.dumps({"captions": CAPTIONS[key], "status": "success"}).encode()
            for name, part in (("png", IMAGES[key]), ("txt", CAPTIONS[key][0].encode()), ("json", said)):
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size, info.mtime, info.uname = len(part), 12345, "somebody"
                tar.addfile(info, io.BytesIO(part))
    return root, {}


def as_hugging_face(root: Path) -> tuple[Path, Options]:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs the extra `datasets`: pip install datasets")
    import datasets

    cells = {"image": [{"bytes": IMAGES[key], "path": None} for key in KEYS]}
    table = datasets.Dataset.from_dict({**cells, "caption": [CAPTIONS[key] for key in KEYS], "uid": KEYS})
    table.cast_column("image", datasets.Image()).save_to_disk(root)
    return root, {"id": "uid"}


SOURCES: dict[str, tuple[str, Callable[[Path], tuple[Path, Options]]]] = {
    "csv": ("table", as_csv),
    "tsv": ("table", as_two_columns),
    "jsonl": ("table", as_json_lines),
    "parquet": ("table", as_parquet),
    "image_folder": ("image_folder", as_folder),
    "coco": ("coco", as_coco),
    "karpathy": ("karpathy", as_karpathy),
    "flickr": ("flickr", as_flickr),
    "numpy": ("numpy", as_arrays),
    "shards": ("shards", as_shards),
    "hugging_face": ("hugging_face", as_hugging_face),
}


def packed(name: str, source: Path, options: Options, out: Path, processes: int = 1) -> dict[str, bytes]:
    """Pack a source, and return the bytes of its tars."""
    form = registry.build(registry.PACK_FORMS, {"name": name, "source": str(source), **options}, "pack")
    with Local(processes) as engine:
        pack(form.records(), out, Packing(shard_size=3), engine, identity={"form": name})
    assert (out / "rejected.jsonl").read_bytes() == b""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def in_tars(tars: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for content in tars.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[extension] = file.read()
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_packed_is_what_was_in_the_source(tmp_path: Path, name: str) -> None:
    form, make = SOURCES[name]
    source, options = make(tmp_path / "source")
    tars = packed(form, source, options, tmp_path / "out")
    samples = in_tars(tars)
    assert sorted(samples) == KEYS
    assert len(tars) == 3
    for key, members in samples.items():
        said = json.loads(members["json"])
        assert said["captions"] == CAPTIONS[key]
        assert members["txt"].decode() == CAPTIONS[key][0]
        if name == "numpy":
            with Image.open(io.BytesIO(members["png"])) as one, Image.open(io.BytesIO(IMAGES[key])) as other:
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        else:
            assert members["png"] == IMAGES[key]
    again, options = make(tmp_path / "elsewhere")
    assert packed(form, again, options, tmp_path / "out2") == tars
    assert packed(form, again, options, tmp_path / "out3", processes=2) == tars
