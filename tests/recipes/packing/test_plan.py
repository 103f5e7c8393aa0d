"""Splits, order and sizes follow from hashes alone."""

import numpy as np
import pytest

from contrastive.errors import ConfigError
from contrastive.recipes.packing.keys import key_hash
from contrastive.recipes.packing.plan import Packing, cuts, ordered, split_of

HASHES = np.array([key_hash(f"k{n}") for n in range(5000)], np.uint64)


def test_sizes_are_one_apart_and_hold_all():
    for samples in range(60):
        for size in range(1, 15):
            found = np.diff(cuts(samples, size))
            assert found.sum() == samples
            assert len(found) == -(-samples // size)
            assert not samples or found.max() - found.min() <= 1


def test_splits_have_about_their_shares():
    names, numbers = split_of(Packing(splits={"val": 0.1, "test": 0.2}), HASHES, [])
    assert names == ["val", "test", "train"]
    shares = np.bincount(numbers) / len(HASHES)
    assert np.abs(shares - [0.1, 0.2, 0.7]).max() < 0.02


def test_a_sample_never_changes_its_split_when_others_come_or_go():
    how = Packing(splits={"val": 0.1})
    _, few = split_of(how, HASHES[:1000], [])
    _, all_of_them = split_of(how, HASHES, [])
    assert np.array_equal(few, all_of_them[:1000])


def test_the_split_does_not_depend_on_the_seed_of_the_order():
    assert np.array_equal(*(split_of(Packing(seed=s, splits={"val": 0.3}), HASHES, [])[1] for s in (1, 2)))


def test_shares_of_one_leave_nothing_to_train():
    names, numbers = split_of(Packing(splits={"a": 0.5, "b": 0.5}), HASHES, [])
    assert names == ["a", "b"]
    assert set(numbers.tolist()) == {0, 1}


def test_train_may_be_named():
    names, numbers = split_of(Packing(splits={"train": 0.9, "val": 0.1}), HASHES, [])
    assert names == ["val", "train"]
    assert 0.08 < (numbers == 0).mean() < 0.12


def test_the_order_is_a_permutation_of_its_own_for_each_seed():
    samples = np.arange(len(HASHES))
    one, other = (ordered(Packing(seed=seed), samples, HASHES) for seed in (0, 1))
    assert np.array_equal(np.sort(one), samples)
    assert not np.array_equal(one, other)
    assert abs(np.corrcoef(samples, one)[0, 1]) < 0.05
    assert np.array_equal(ordered(Packing(seed=None), samples, HASHES), samples)


def test_names_of_the_source_are_numbers_of_a_list():
    how = Packing(own_splits=True)
    names, numbers = split_of(how, np.array([0, 1, 2, 0], np.uint64), ["", "val", "train"])
    assert [names[number] for number in numbers] == ["train", "val", "train", "train"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"shard_size": 0}, "--shard-size 0: must be at least 1 sample"),
        ({"splits": {"val": 0.0}}, "--split val=0: a share lies above 0 and is at most 1"),
        ({"splits": {"val": 0.7, "test": 0.7}}, "--split: the shares sum to 1.4, more than 1"),
        ({"splits": {"a/b": 0.1}}, "--split a/b=0.1: its name must be that of a folder"),
        ({"split_by": "who"}, "--split-by who: there is no split; give --split val=0.01"),
        ({"own_splits": True, "splits": {"val": 0.1}}, "--split source: the source decides"),
    ],
)
def test_what_cannot_be_meant_is_refused(how: dict, said: str):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Packing(**how)
