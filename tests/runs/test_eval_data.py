from pathlib import Path

import pytest

from contrastive.errors import ConfigError, UserError
from contrastive.runs.eval_data import datasets_of, open_eval_dataset, read_suite


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("datasets: []", "datasets must be a list of evaluation YAMLs"),
        ("datasets: [1]", "datasets must be a list of evaluation YAMLs"),
        ("dataset: [a.yaml]", "unknown key 'dataset'; did you mean datasets?"),
        ("name: all", "datasets must be a list"),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path: Path, content: str, message: str):
    path = tmp_path / "suite.yaml"
    path.write_text(content + "\n")
    with pytest.raises(ConfigError) as caught:
        read_suite(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_relative_root_is_looked_for_where_the_user_says(classes: Path, tmp_path: Path):
    moved = tmp_path / "moved.yaml"
    moved.write_text(f"name: toy\nroot: {(tmp_path / 'eval').name}\n")
    assert len(open_eval_dataset(str(moved), str(tmp_path))) == 6
    with pytest.raises(UserError, match="there is no folder"):
        open_eval_dataset(str(moved), str(tmp_path / "elsewhere"))


def test_a_folder_has_the_name_of_its_own(classes: Path, tmp_path: Path):
    assert open_eval_dataset(str(tmp_path / "eval")).spec.name == "eval"


def test_a_dataset_that_is_named_twice_is_opened_once(classes: Path, tmp_path: Path):
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"datasets: [{classes}]\n")
    assert len(datasets_of([str(classes)], [str(suite)], ".", "unused")) == 1


@pytest.mark.parametrize("model", ["ViT-B-32@openai", "hf-hub:a/b"])
def test_a_model_that_is_no_run_names_no_dataset(model: str):
    with pytest.raises(UserError, match="no dataset is named; add --data"):
        datasets_of([], [], ".", model)


def test_a_run_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        datasets_of([], [], ".", str(tmp_path / "nowhere"))
