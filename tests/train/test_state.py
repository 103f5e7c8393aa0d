from pathlib import Path

import pytest

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.train.state import checkpoint_path, create, finish, is_finished, refuse_foreign


def test_a_run_is_finished_only_for_its_own_configuration(tmp_path: Path):
    config = load([], [f"run.directory={tmp_path}", "model.preprocess={mean: [0.5, 0.5, 0.5]}"])
    assert not is_finished(tmp_path, config)
    create(tmp_path, config, {"world_size": 1})
    assert not is_finished(tmp_path, config)
    finish(tmp_path, config, {"step": 3})
    assert is_finished(tmp_path, config)
    assert not is_finished(tmp_path, load([], [f"run.directory={tmp_path}", "train.seed=1"]))


def test_the_saved_configuration_is_the_run(tmp_path: Path):
    config = load([], ["train.seed=7", "data.train=a"])
    create(tmp_path, config, {})
    assert load([str(tmp_path / "config.yaml")]) == config


def test_a_directory_that_holds_something_is_refused(tmp_path: Path):
    refuse_foreign(tmp_path)
    refuse_foreign(tmp_path / "new")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"holds files of something else; choose another with run\.directory="):
        refuse_foreign(tmp_path)
    create(tmp_path, load([]), {})
    with pytest.raises(RunError, match="holds another run"):
        refuse_foreign(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run\.directory: .*file/run cannot be written"):
        create(tmp_path / "file" / "run", load([]), {})


def test_checkpoints_sort_by_step(tmp_path: Path):
    paths = [checkpoint_path(tmp_path, step) for step in (9, 10, 1_000_000)]
    assert sorted(paths) == paths
