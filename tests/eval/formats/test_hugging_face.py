import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.hugging_face import HuggingFace
from tests import toys
from tests.eval.formats.trees import names, refused, texts, write_images

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the extra `datasets`: pip install datasets"
)


def saved(root: Path, count: int = 3, splits: tuple[str, ...] = ("test", "train"), **columns: Any) -> Path:
    """Write a dataset of the library; `columns` give values, or (values, feature)."""
    import datasets

    pictures = [{"bytes": toys.encode(toys.image(number)), "path": None} for number in range(count)]
    features = {"image": datasets.Image()}
    values = {"image": pictures}
    for name, given in columns.items():
        values[name], features[name] = given if isinstance(given, tuple) else (given, None)
    table = datasets.Dataset.from_dict(values)
    for name, feature in features.items():
        table = table if feature is None else table.cast_column(name, feature)
    datasets.DatasetDict(dict.fromkeys(splits, table)).save_to_disk(root)
    return root


def class_label(*classes: str) -> Any:
    import datasets

    return datasets.ClassLabel(names=list(classes))


@needs_library
def test_the_features_name_the_classes(tmp_path: Path) -> None:
    root = saved(tmp_path, label=([1, 0, 1], class_label("cat", "guinea_pig")))
    content = HuggingFace().read(root, "test", ())
    assert content.kinds == ("classification",)
    assert content.classnames == ("cat", "guinea pig")
    assert [sample.label for sample in content.samples] == [1, 0, 1]


@needs_library
def test_labels_that_are_texts_are_sorted(tmp_path: Path) -> None:
    content = HuggingFace(label="kind").read(saved(tmp_path, kind=["dog", "cat", "dog"]), "test", ())
    assert (content.classnames, [sample.label for sample in content.samples]) == (("cat", "dog"), [1, 0, 1])


@needs_library
def test_several_labels_may_be_present(tmp_path: Path) -> None:
    import datasets

    feature = datasets.List(class_label("a", "b", "c"))
    content = HuggingFace().read(saved(tmp_path, labels=([[0, 2], [], [1]], feature)), "test", ())
    assert (content.kinds, content.classnames) == (("multilabel",), ("a", "b", "c"))
    assert [sample.labels for sample in content.samples] == [(0, 2), (), (1,)]


@needs_library
def test_captions_may_be_a_text_or_a_list(tmp_path: Path) -> None:
    root = saved(tmp_path / "1", caption=["a", "b", "c"])
    assert texts(HuggingFace().read(root, "test", ())) == [["a"], ["b"], ["c"]]
    root = saved(tmp_path / "2", title=[["a", "aa"], ["b"], ["c"]])
    assert texts(HuggingFace(caption="title").read(root, "test", ())) == [["a", "aa"], ["b"], ["c"]]


@needs_library
def test_rows_of_one_id_are_one_image(tmp_path: Path) -> None:
    content = HuggingFace(id="key").read(saved(tmp_path, key=[5, 6, 5], caption=["a", "b", "c"]), "test", ())
    assert texts(content) == [["a", "c"], ["b"]]


@needs_library
def test_images_are_read_by_row_also_in_another_process(tmp_path: Path) -> None:
    content = HuggingFace().read(saved(tmp_path, count=20, label=list(range(20))), "test", ())
    assert len(set(names(content))) == 20
    for number in (19, 3):
        image = content.samples[number].image
        assert image.stamp == str(len(toys.encode(toys.image(number))))
        travelled = pickle.loads(pickle.dumps(image))
        assert np.array_equal(np.asarray(travelled.decode()), toys.image(number))
        assert len(pickle.dumps(image)) < 10_000


@needs_library
def test_images_that_are_files_are_read_from_there(tmp_path: Path) -> None:
    import datasets

    write_images(tmp_path, "a.png", "b.png")
    table = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / name) for name in ("a.png", "b.png")], "label": [0, 1]}
    )
    table.save_to_disk(tmp_path / "saved")
    content = HuggingFace().read(tmp_path / "saved", "test", ())
    content.samples[1].image.decode()
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: cannot be read"):
        content.samples[1].image.decode()
    assert "row 1: " in refused(HuggingFace(), tmp_path / "saved")


@needs_library
def test_names_tell_nothing_of_the_folder_and_messages_do(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}], "label": [0]})
    table.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    image = HuggingFace().read(tmp_path / "saved", "test", ()).samples[0].image
    assert image.name == "test: row 0"
    with pytest.raises(DataError, match=r"saved, test: row 0: the image cannot be read"):
        image.decode()


@needs_library
def test_a_selection_keeps_its_own_rows(tmp_path: Path) -> None:
    import datasets

    table = datasets.load_from_disk(str(saved(tmp_path / "all", label=[0, 1, 2])))["test"]
    table.select([2, 0]).save_to_disk(tmp_path / "some")
    content = HuggingFace().read(tmp_path / "some", "test", ())
    assert [sample.label for sample in content.samples] == [2, 0]
    assert np.array_equal(np.asarray(content.samples[0].image.decode()), toys.image(2))


@needs_library
def test_a_folder_of_images_is_loaded_by_its_path(tmp_path: Path) -> None:
    write_images(tmp_path / "data", "test/cat/1.png", "test/dog/2.png", "train/cat/3.png", "train/dog/4.png")
    content = HuggingFace(path=str(tmp_path / "data")).read(tmp_path / "cache", "test", ())
    assert (content.classnames, [sample.label for sample in content.samples]) == (("cat", "dog"), [0, 1])
    content.samples[0].image.decode()


@needs_library
def test_a_missing_split_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    assert "has no split 'val'; it has test, train" in refused(HuggingFace(), saved(tmp_path, label=[0, 1, 2]), "val")


@needs_library
def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    root = saved(tmp_path, label=[0, 1, 2])
    found = refused(HuggingFace(caption="text"), root)
    assert "has no column 'text'; it has image, label; set format.caption to one of them" in found
    assert "column 'label' holds no images" in refused(HuggingFace(image="label"), root)
    assert "no column is known for retrieval" in refused(HuggingFace(), root, kinds=("retrieval",))


@needs_library
def test_a_row_without_an_image_or_a_caption_is_refused_by_number(tmp_path: Path) -> None:
    import datasets

    assert ", test: row 1: the caption is empty" in refused(
        HuggingFace(), saved(tmp_path / "1", caption=["a", "", "b"])
    )
    table = datasets.Dataset.from_dict({"image": [None], "label": [0]}).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "2")
    assert "row 0: has no image" in refused(HuggingFace(), tmp_path / "2")


@needs_library
def test_a_folder_or_name_that_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds no dataset_dict.json or state.json; set format.path" in refused(HuggingFace(), tmp_path)
    (tmp_path / "state.json").write_text("{")
    assert "cannot be loaded: " in refused(HuggingFace(), tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = refused(HuggingFace(path="nobody/nothing"), tmp_path)
    assert "nobody/nothing: cannot be loaded: " in found


def test_without_the_library_the_command_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    found = refused(HuggingFace(), tmp_path, error=ConfigError)
    assert "pip install 'contrastive-pretrain[datasets]'" in found
