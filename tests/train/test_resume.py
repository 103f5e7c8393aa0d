import json
from typing import Any

import pytest

from contrastive.config import describe, load, to_dict
from contrastive.errors import RunError
from contrastive.train.resume import FREE, SCHEDULE, changes, meaning, require_same_run


def saved(*overrides: str) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(load([], overrides))))


def test_every_key_that_is_named_exists():
    known = [key for key, _, _ in describe()]
    for key in (*FREE, *SCHEDULE):
        assert any(one == key or one.startswith(f"{key}.") for one in known), key


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.workers", "free"),
        ("eval.every_steps", "free"),
        ("run.directory", "free"),
        ("train.micro_batch_size", "free"),
        ("optim.learning_rate", "schedule"),
        ("train.total_samples", "schedule"),
        ("train.seed", "fixed"),
        ("data.global_batch_size", "fixed"),
        ("model.embed_dim", "fixed"),
        ("losses.contrastive.name", "fixed"),
        ("data.trainer", "fixed"),  # not data.train
    ],
)
def test_what_a_change_means(key: str, expected: str):
    assert meaning(key) == expected


def test_changes_are_found_at_any_depth_and_an_equal_run_has_none():
    assert changes(saved("model.image={name: cnn}"), load([], ["model.image={name: cnn}"])) == []
    found = changes(saved("model.image={name: cnn}", "data.workers=1"), load([], ["model.image={name: cnn, width: 3}"]))
    assert [str(change) for change in found] == ["model.image.width null -> 3", "data.workers 1 -> 2"]


def test_another_run_is_refused_with_the_way_to_go_on():
    found = changes(saved(), load([], ["train.seed=3", "data.global_batch_size=8", "data.workers=9"]))
    with pytest.raises(RunError) as caught:
        require_same_run(found, [], "runs/x")
    assert str(caught.value) == (
        "run.directory: runs/x holds a run with other settings: data.global_batch_size 256 -> 8; train.seed 0 -> 3; "
        "take another run.directory, put them back, or go on all the same with "
        "run.accept_changes=[data.global_batch_size,train.seed]"
    )
    with pytest.raises(RunError, match=r"accept_changes=\[data\.global_batch_size\]"):
        require_same_run(found, ["train.seed"], "runs/x")
    require_same_run(found, ["train.seed", "data"], "runs/x")


def test_long_values_are_cut():
    (change,) = changes(saved(), load([], ["data.caption_key=" + "x" * 100]))
    assert len(str(change)) < 100
