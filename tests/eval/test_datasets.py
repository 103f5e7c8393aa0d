import json
import re
from pathlib import Path

import numpy as np
import pytest

from contrastive.config import read_yaml
from contrastive.errors import ConfigError, DataError, UserError
from contrastive.eval.datasets import DatasetSpec, EvalDataset, open_dataset
from tests.eval.toys import to_tensor, write_classes, write_folder

NAMES = ["zero", "one", "two"]


def spec(root: Path, **keys: object) -> DatasetSpec:
    return DatasetSpec.from_dict({"name": "toy", "root": str(root), **keys}, "toy.yaml")


def digits(root: Path, labels: tuple[str, ...] = ("2", "0", "1", "1", "2")) -> Path:
    return write_classes(write_folder(root / "data", [{"cls": label} for label in labels]), NAMES)


def pairs(root: Path, captions: tuple[str, ...] = ("a cat\na red cat", "a dog", "a cat\n")) -> Path:
    return write_folder(root / "data", [{"txt": text} for text in captions], shards=1, kind="retrieval\n")


def texts_of(dataset: EvalDataset, image: int) -> list[str]:
    return [dataset.texts[text] for text in dataset.captions[image]]


def refused(kind: type[UserError], **keys: object) -> str:
    with pytest.raises(kind) as caught:
        open_dataset(spec(**keys))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_classification_folder_is_read_in_shard_order(tmp_path: Path) -> None:
    dataset = open_dataset(spec(digits(tmp_path)))
    assert dataset.tasks == ("zeroshot",)
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


def test_equal_captions_are_one_candidate(tmp_path: Path) -> None:
    dataset = open_dataset(spec(pairs(tmp_path)))
    assert dataset.tasks == ("retrieval",)
    assert [dataset.texts[text] for text in dataset.candidates] == ["a cat", "a red cat", "a dog"]
    assert [texts_of(dataset, image) for image in range(3)] == [["a cat", "a red cat"], ["a dog"], ["a cat"]]


def test_candidates_enlarge_the_pool_and_lookalikes_become_symmetric(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("a cow\na cat\na dog\na red cat\na cow\n")
    (tmp_path / "alike.json").write_text(json.dumps({"a cat": ["a cow", "a cat", "not in the pool"]}))
    files = {"candidates": str(tmp_path / "pool.txt"), "lookalikes": str(tmp_path / "alike.json")}
    dataset = open_dataset(spec(pairs(tmp_path), **files))
    assert [dataset.texts[text] for text in dataset.candidates] == ["a cow", "a cat", "a dog", "a red cat"]
    cat, cow = dataset.texts.index("a cat"), dataset.texts.index("a cow")
    assert dataset.lookalikes == {cat: {cow}, cow: {cat}}


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
    with pytest.raises(
        DataError, match=f"no folder data/glyphs/{name}/test; make it with: python data_recipes/glyphs.py"
    ):
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
    assert "line 2 is empty" in refused(DataError, root=root)
    (root / "classnames.txt").write_text("\n\n")
    assert "classnames.txt is empty" in refused(DataError, root=root)
    (root / "classnames.txt").unlink()
    assert "there is no file" in refused(DataError, root=root)
    assert "classnames is an empty list" in refused(DataError, root=root, classnames=[])


def test_template_without_placeholder_is_refused(tmp_path: Path) -> None:
    message = refused(DataError, root=digits(tmp_path), templates=["a photo of {}"])
    assert "'a photo of {}' has no {c}" in message


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


def test_folder_type_without_evaluator_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", [{"cls": "0"}], shards=1, kind="multilabel")
    assert "'multilabel'" in refused(ConfigError, root=root)
