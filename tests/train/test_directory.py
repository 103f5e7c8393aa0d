import json
import os
from pathlib import Path

import pytest

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.settings import Config
from contrastive.train.directory import create, finish, is_finished, preempt, require_usable, require_writable


def config(directory: Path, *overrides: str) -> Config:
    return load([], [f"run.directory={directory}", *overrides])


def test_a_run_is_finished_only_for_settings_that_would_not_have_changed_it(tmp_path: Path):
    given = "model.preprocess={mean: [0.5, 0.5, 0.5]}"
    assert not is_finished(tmp_path, config(tmp_path, given))
    create(tmp_path, config(tmp_path, given), {"world_size": 1})
    assert not is_finished(tmp_path, config(tmp_path, given))
    finish(tmp_path, config(tmp_path, given), {"step": 3})
    assert is_finished(tmp_path, config(tmp_path, given))
    assert is_finished(tmp_path, config(tmp_path, given, "data.workers=7"))
    assert not is_finished(tmp_path, config(tmp_path, given, "train.total_samples=7"))
    assert not is_finished(tmp_path, config(tmp_path, given, "train.seed=1"))
    create(tmp_path, config(tmp_path, given), {})
    assert not is_finished(tmp_path, config(tmp_path, given))


def test_the_saved_configuration_is_the_run_without_what_concerns_one_launch(tmp_path: Path):
    given = config(tmp_path, "train.seed=7", "data.train=a")
    create(tmp_path, given, {})
    assert load([str(tmp_path / "config.yaml")]) == given
    create(tmp_path, config(tmp_path, "train.seed=7", "data.train=a", "run.resume=must", "run.accept_changes=[a]"), {})
    assert load([str(tmp_path / "config.yaml")]) == given


def test_a_new_or_empty_directory_is_usable_and_a_lock_is_nothing(tmp_path: Path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock.json").write_text("")
    assert require_usable(tmp_path, config(tmp_path)) == []
    assert require_usable(tmp_path / "new", config(tmp_path / "new")) == []


def test_a_directory_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"holds files of something else; choose another with run\.directory="):
        require_usable(tmp_path, config(tmp_path))


def test_the_run_that_is_there_goes_on_unless_it_may_not(tmp_path: Path):
    create(tmp_path, config(tmp_path), {})
    assert require_usable(tmp_path, config(tmp_path)) == []
    (change,) = require_usable(tmp_path, config(tmp_path, "optim.learning_rate=0.1"))
    assert str(change) == "optim.learning_rate 0.0005 -> 0.1"
    with pytest.raises(RunError, match=r"holds a run, and run\.resume is never; choose another"):
        require_usable(tmp_path, config(tmp_path, "run.resume=never"))
    with pytest.raises(RunError, match=r"holds a run with other settings: train\.seed 0 -> 1; take another"):
        require_usable(tmp_path, config(tmp_path, "train.seed=1"))


def test_must_is_refused_where_nothing_can_go_on(tmp_path: Path):
    with pytest.raises(RunError, match=r"run\.resume: must, and .*/new holds no run to go on with"):
        require_usable(tmp_path / "new", config(tmp_path / "new", "run.resume=must"))


def test_a_configuration_that_cannot_be_read_any_more_is_named(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("train: {sed: 1}\n")
    with pytest.raises(RunError, match=r"holds a run that cannot go on: train\.sed: unknown key; did you mean"):
        require_usable(tmp_path, config(tmp_path))


def test_a_link_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RunError, match="link is a symbolic link; name the directory itself"):
        require_usable(tmp_path / "link", config(tmp_path / "link"))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for refuse in (require_writable, lambda directory: create(directory, load([]), {})):
        with pytest.raises(RunError, match=r"run\.directory: .*file/run cannot be written"):
            refuse(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"cannot be written: .* is read-only"):
        require_writable(tmp_path / "run")


def test_a_run_that_was_asked_to_end_says_so_until_it_goes_on(tmp_path: Path):
    create(tmp_path, config(tmp_path), {})
    preempt(tmp_path, 15, 7, tmp_path / "checkpoints" / "step-00000007")
    said = json.loads((tmp_path / "preempted.json").read_text())
    assert (said["signal"], said["step"]) == ("SIGTERM", 7)
    assert said["checkpoint"].endswith("step-00000007")
    create(tmp_path, config(tmp_path), {})
    assert not (tmp_path / "preempted.json").exists()
