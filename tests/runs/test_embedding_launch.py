"""The part of one process of an embedding, and what it says when something ends it."""

import pytest
import torch

from contrastive.errors import ConfigError, DataError
from contrastive.runs import embedding_launch
from contrastive.runs.embedding_launch import _losses_named, _workers


def test_a_batch_that_does_not_fit_names_the_option():
    with (
        pytest.raises(ConfigError, match="--batch-size 64: does not fit into the device's memory; halve it"),
        _losses_named(64),
    ):
        raise torch.OutOfMemoryError


def test_a_reader_that_dies_is_told_from_other_errors():
    with (
        pytest.raises(DataError, match=r"a process that read samples is gone \(DataLoader worker \(pid 3\) is killed"),
        _losses_named(64),
    ):
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="sizes differ"), _losses_named(64):
        raise RuntimeError("sizes differ")


def test_the_cores_of_a_machine_are_shared_by_its_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedding_launch.machine, "cores", lambda: 24)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert _workers(None, torch.device("cuda")) == 6
    assert _workers(None, torch.device("cpu")) == 0
    assert _workers(3, torch.device("cpu")) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert _workers(None, torch.device("cuda")) == 8
