import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contrastive.config import read_yaml
from contrastive.errors import ConfigError, DataError, UserError
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.formats.clip_benchmark import ImageMember
from contrastive.eval.samples import Caption, Content, Sample
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import png, to_tensor, write_classes, write_folder, write_tar

NAMES = ["zero", "one", "two"]


def spec(root: Path, **keys: object) -> DatasetSpec:
    return DatasetSpec.from_dict({"name": "toy", "root": str(root), **keys}, "toy.yaml")


def digits(root: Path, labels: tuple[str, ...] = ("2", "0", "1", "1", "2")) -> Path:
    return write_classes(write_folder(root / "data", [{"cls": label} for label in labels]), NAMES)


def pairs(root: Path, captions: tuple[str, ...] = ("a cat\na red cat", "a dog", "a cat\n")) -> Path:
    return write_folder(root / "data", [{"txt": text} for text in captions], shards=1, kind="retrieval\n")


def texts_of(dataset: EvalDataset, image: int) -> list[str]:
    return [dataset.texts[dataset.documents[document]] for document in dataset.captions[image]]


def refused(kind: type[UserError], **keys: object) -> str:
    with pytest.raises(kind) as caught:
        open_dataset(spec(**keys))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_classification_folder_is_read_in_shard_order(tmp_path: Path) -> None:
    dataset = open_dataset(spec(digits(tmp_path)))
    assert [task["name"] for task in dataset.tasks] == ["zeroshot", "calibration"]
    assert [image.key for image in dataset.images] == [f"s000000{i}" for i in (0, 2, 4, 1, 3)]
    assert dataset.labels == (2, 1, 2, 0, 1)
    assert dataset.classnames == ("zero", "one", "two")
    assert [dataset.texts[text] for text in dataset.prompts[1]] == ["one", "a photo of a one."]


def test_any_image_is_read_by_its_index(tmp_path: Path) -> None:
    dataset = open_dataset(spec(digits(tmp_path)))
    for index, source in reversed(list(enumerate((0, 2, 4, 1, 3)))):
        expected = np.random.default_rng(source).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(dataset.image(index)), expected)
    assert to_tensor(dataset.image(0)).shape == (3, 6, 6)


def test_every_caption_is_a_document_and_equal_ones_are_lookalikes(tmp_path: Path) -> None:
    dataset = open_dataset(spec(pairs(tmp_path)))
    assert [task["name"] for task in dataset.tasks] == ["retrieval", "geometry"]
    assert [dataset.texts[text] for text in dataset.documents] == ["a cat", "a red cat", "a dog", "a cat"]
    assert dataset.texts == ("a cat", "a red cat", "a dog")
    assert dataset.captions == ((0, 1), (2,), (3,))
    assert dataset.lookalikes == {0: {3}, 3: {0}}


class TwoOfOne:
    """A layout from outside the package: two images that share the caption with the id "c"."""

    def __init__(self, text: str = "a cat") -> None:
        self.text = text

    def read(self, root: Path, split: str, kinds: Sequence[str]) -> Content:
        images = [ImageMember("0.tar", key, 0, 1) for key in "ab"]
        first, second = (Caption("a cat", "c"), Caption("a red cat", "d")), (Caption(self.text, "c"),)
        return Content([Sample(images[0], captions=first), Sample(images[1], captions=second)], ("retrieval",))


def test_a_caption_of_one_id_belongs_to_several_images(tmp_path: Path) -> None:
    dataset = open_dataset(spec(tmp_path, format=f"{__name__}:TwoOfOne"))
    assert dataset.captions == ((0, 1), (0,))
    message = refused(DataError, root=tmp_path, format={"name": f"{__name__}:TwoOfOne", "text": "a dog"})
    assert "caption id 'c' is 'a cat' and, of 0.tar: b, 'a dog'; one id is one text" in message


def test_without_some_images_the_rest_keeps_what_is_said_of_it(tmp_path: Path) -> None:
    dataset = open_dataset(spec(digits(tmp_path))).without([1, 3])
    assert [image.key for image in dataset.images] == ["s0000000", "s0000004", "s0000003"]
    assert dataset.labels == (2, 2, 1)
    captioned = open_dataset(spec(pairs(tmp_path / "pairs"))).without([1])
    assert captioned.captions == ((0, 1), (3,))
    assert len(captioned.documents) == 4, "the caption of an image that is gone stays as a wrong answer"
    with pytest.raises(DataError, match="no readable image is left"):
        captioned.without([0, 1])


def test_splits_of_probes_come_with_it(tmp_path: Path) -> None:
    root = digits(tmp_path)
    shutil.copytree(root / "test", root / "train")
    dataset = open_dataset(spec(root, train_split="train"))
    assert dataset.train is not None
    assert dataset.train.labels == dataset.labels
    assert dataset.val is None
    (root / "test" / "nshards.txt").write_text("2")
    assert "no folder" in refused(DataError, root=root, train_split="train", val_split="val")


def test_candidates_enlarge_the_pool_and_lookalikes_become_symmetric(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("a cow\na cat\na dog\na red cat\na cow\n")
    (tmp_path / "alike.json").write_text(json.dumps({"a cat": ["a cow", "a cat", "not in the pool"]}))
    files = {"candidates": str(tmp_path / "pool.txt"), "lookalikes": str(tmp_path / "alike.json")}
    dataset = open_dataset(spec(pairs(tmp_path), **files))
    assert [dataset.texts[text] for text in dataset.documents] == ["a cow", "a cat", "a dog", "a red cat"]
    assert dataset.captions == ((1, 3), (2,), (1,))
    assert dataset.lookalikes == {1: {0}, 0: {1}}


def test_one_folder_serves_both_tasks(tmp_path: Path) -> None:
    root = write_classes(
        write_folder(tmp_path / "data", [{"cls": "0", "txt": "zero"}, {"cls": "1", "txt": "i"}]), NAMES
    )
    dataset = open_dataset(spec(root, task=["zeroshot", "retrieval"]))
    assert dataset.labels == (0, 1)
    assert [texts_of(dataset, image) for image in range(2)] == [["zero"], ["i"]]
    assert dataset.texts.count("zero") == 1


def test_templates_and_classnames_of_the_yaml_win(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("nought\nunity\ndeuce\n")
    dataset = open_dataset(spec(digits(tmp_path), templates=["digit {c}"], classnames=str(tmp_path / "names.txt")))
    assert dataset.texts == ("digit nought", "digit unity", "digit deuce")


def test_fingerprint_tells_other_labels_apart(tmp_path: Path) -> None:
    one, same, other = digits(tmp_path / "1"), digits(tmp_path / "2"), digits(tmp_path / "3", ("0", "0", "1", "1", "2"))
    assert open_dataset(spec(one)).fingerprint() == open_dataset(spec(same)).fingerprint()
    assert open_dataset(spec(one)).fingerprint() != open_dataset(spec(other)).fingerprint()


@pytest.mark.parametrize("name", ["digits", "faces", "characters"])
def test_shipped_yaml_is_valid_and_says_how_to_make_its_data(name: str, tmp_path: Path, monkeypatch: object) -> None:
    path = Path(__file__).parents[2] / f"configs/eval/{name}.yaml"
    found = DatasetSpec.from_dict(read_yaml(path), str(path))
    assert (found.name, found.root) == (name, f"data/glyphs/{name}")
    monkeypatch.chdir(tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=f"no folder data/glyphs/{name}; make it with: python data_recipes/glyphs.py"):
        open_dataset(found)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"templats": []}, "unknown key 'templats'; did you mean templates?"),
        ({"recall_k": [1, 0]}, "recall_k: [0, 1] must be"),
        ({"recall_k": []}, "recall_k: [] must be"),
        ({"recall_k": "five"}, "recall_k"),
        ({"split": 3}, "split: 3 is not str"),
        ({"root": None}, "root is missing"),
        ({"candidates": ["a"]}, "candidates: ['a'] is not"),
    ],
)
def test_wrong_yaml_is_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^toy.yaml: .*{re.escape(message.split(': [')[0])}"):
        DatasetSpec.from_dict({"name": "toy", "root": "here", **keys}, "toy.yaml")


def test_missing_folder_without_hint_says_what_to_set(tmp_path: Path) -> None:
    assert "no folder" in refused(DataError, root=tmp_path / "none")


def test_class_files_are_checked(tmp_path: Path) -> None:
    root = digits(tmp_path)
    (root / "classnames.txt").write_text("zero\n\ntwo\n")
    assert "class 1 is ''" in refused(DataError, root=root)
    assert "class 1 is ''" not in str(open_dataset(spec(root, classnames=["nought", "unity", "deuce"])))
    (root / "classnames.txt").unlink()
    assert "set classnames" in refused(DataError, root=root)


@pytest.mark.parametrize(
    ("keys", "message"), [({"max_unreadable": 2}, "must be a share"), ({"format": "tabel"}, "table")]
)
def test_wrong_ranges_and_layouts_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetSpec.from_dict({"name": "toy", "root": "here", **keys}, "toy.yaml")


@pytest.mark.parametrize(("label", "message"), [("3", "label 3 is not in 0..2"), ("-1", "-1")])
def test_wrong_label_is_refused_by_tar_and_key(label: str, message: str, tmp_path: Path) -> None:
    found = refused(DataError, root=digits(tmp_path, (label, "1")))
    assert message in found
    assert "0.tar: s0000000" in found


def test_pool_without_a_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("a cat\na dog\n")
    message = refused(DataError, root=pairs(tmp_path), candidates=str(tmp_path / "pool.txt"))
    assert "caption 'a red cat' of 0.tar: s0000000 is not a candidate" in message


def test_lookalikes_of_another_dataset_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alike.json"
    path.write_text('{"x": ["y"]}')
    assert "none of its texts" in refused(DataError, root=pairs(tmp_path), lookalikes=str(path))
    path.write_text("[]")
    assert "must be JSON" in refused(DataError, root=pairs(tmp_path / "2"), lookalikes=str(path))


def test_several_classes_an_image_are_read_from_a_vector(tmp_path: Path) -> None:
    vectors = ([1, 0, 1], [0, 0, 0], [0, 1, 0])
    root = tmp_path / "data"
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("multilabel")
    members = {}
    for index, vector in enumerate(vectors):
        content = io.BytesIO()
        np.save(content, np.array(vector))
        members |= {f"s{index}.png": png(index), f"s{index}.npy": content.getvalue()}
    write_tar(root / "test" / "0.tar", members)
    dataset = open_dataset(spec(write_classes(root, NAMES)))
    assert dataset.label_sets == ((0, 2), (), (1,))
    assert [task["name"] for task in dataset.tasks] == ["multilabel"]
    write_classes(root, NAMES[:2])
    assert "s0.npy has 3 numbers and classnames.txt 2 lines" in refused(DataError, root=root)


def test_folder_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", [{"cls": "0"}], shards=1, kind="captioning")
    assert "'captioning'" in refused(ConfigError, root=root)
