import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.hugging_face import HuggingFace
from tests.recipes.forms.trees import content, png, read, reasons, refused, said, write_images

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the extra `datasets`: pip install datasets"
)


def table(**columns: Any) -> Any:
    import datasets

    found = datasets.Dataset.from_dict(columns)
    return found.cast_column("image", datasets.Image()) if isinstance(columns["image"][0], dict | str) else found


def inline(count: int) -> list[dict[str, Any]]:
    return [{"bytes": png(number), "path": f"{number}.png"} for number in range(count)]


@needs_library
def test_every_split_is_read_without_decoding(tmp_path: Path) -> None:
    import datasets

    parts = {
        "train": table(image=inline(3), caption=["a", "b", "c"], n=[1, 2, 3]),
        "test": table(image=inline(1), caption=["d"], n=[4]),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    records, rejected = read(HuggingFace(str(tmp_path / "saved")))
    assert not rejected
    assert [(one.split, one.captions, one.fields["n"]) for one in records] == [
        ("train", ("a",), 1),
        ("train", ("b",), 2),
        ("train", ("c",), 3),
        ("test", ("d",), 4),
    ]
    assert [content(record) for record in records] == [png(0), png(1), png(2), png(0)]
    assert records[1].key.startswith("1-")
    records, _ = read(HuggingFace(str(tmp_path / "saved"), split="test", id="n"))
    assert said(records) == {"4": ("d",)}


@needs_library
def test_lists_and_several_columns_are_several_captions(tmp_path: Path) -> None:
    table(image=inline(2), one=[["a", "b"], ["c"]], two=["d", None]).save_to_disk(tmp_path / "saved")
    records, _ = read(HuggingFace(str(tmp_path / "saved"), caption="one,two"))
    assert [record.captions for record in records] == [("a", "b", "d"), ("c",)]


@needs_library
def test_images_may_be_files_or_bytes_that_nobody_called_images(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for number, images in enumerate((paths, [png(0), png(1)])):
        table(image=images, caption=["a", "b"]).save_to_disk(tmp_path / f"saved{number}")
        records, _ = read(HuggingFace(str(tmp_path / f"saved{number}")))
        assert [content(record) for record in records] == [png(0), png(1)]


@needs_library
def test_a_folder_of_the_hub_is_read_and_streamed_alike(tmp_path: Path) -> None:
    write_images(tmp_path / "data/train", "a.png", "b.png")
    (tmp_path / "data/train/metadata.csv").write_text("file_name,caption\na.png,one\nb.png,two\n")
    for streaming in (False, True):
        records, _ = read(HuggingFace(f"hf:{tmp_path / 'data'}", streaming=streaming))
        assert [(record.captions, record.split, content(record)) for record in records] == [
            (("one",), "train", png(0)),
            (("two",), "train", png(1)),
        ]


@needs_library
def test_rows_without_image_or_caption_are_told(tmp_path: Path) -> None:
    table(image=[*inline(2), None], caption=["", "b", "c"]).save_to_disk(tmp_path / "saved")
    records, rejected = read(HuggingFace(str(tmp_path / "saved")))
    assert (len(records), reasons(rejected)) == (1, ["caption: empty", "image: missing"])
    assert rejected[0].where == f"{tmp_path / 'saved'}, train: row 0"


@needs_library
def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    table(image=inline(1), caption=["a"], n=[1]).save_to_disk(saved)
    said = f"caption: {saved}, train has no column 'captoin'; it has image, caption, n; did you mean caption?"
    assert refused(HuggingFace, saved, error=ConfigError, caption="captoin") == said
    assert refused(HuggingFace, saved, split="val") == f"split: {saved} has no split 'val'; it has train"
    assert "column 'n' of" in refused(HuggingFace, saved, image="n", error=DataError)
    assert "holds no dataset_dict.json or state.json" in refused(HuggingFace, tmp_path)
    assert "cannot be loaded" in refused(HuggingFace, f"hf:{tmp_path / 'no'}")


def test_the_library_is_asked_for_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = "--from hugging_face needs the library datasets: pip install 'contrastive-pretrain[datasets]'"
    assert refused(HuggingFace, tmp_path, error=DataError) == said
