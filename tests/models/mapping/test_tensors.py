"""Tensors under both names, there and back."""

import pytest
import torch

from contrastive.errors import ModelError
from contrastive.models.mapping.tensors import Pair, to_ours, to_theirs

PAIRS = [
    Pair("same", "a"),
    Pair("turned", "b", "transposed"),
    Pair("fused", ("q", "k", "v"), "thirds"),
    Pair("scale", "s", "number"),
    Pair("position", "p", "plane"),
    Pair(("query", "rest"), "j", "joined", (2, 3)),
    Pair((), "i", "identity", (3, 3)),
]
OURS = {
    "same": torch.randn(2, 3),
    "turned": torch.randn(2, 3),
    "fused": torch.randn(6, 2),
    "scale": torch.randn(1),
    "position": torch.randn(1, 4, 2),
    "query": torch.randn(2, 7),
    "rest": torch.randn(3, 7),
}


def test_every_kind_comes_back_bit_by_bit():
    theirs = to_theirs(PAIRS, OURS)
    assert {name: tuple(value.shape) for name, value in theirs.items()} == {
        **{"a": (2, 3), "b": (3, 2), "q": (2, 2), "k": (2, 2), "v": (2, 2)},
        **{"s": (), "p": (4, 2), "j": (5, 7), "i": (3, 3)},
    }
    back = to_ours(PAIRS, theirs)
    assert list(back) == list(OURS)
    assert all(torch.equal(back[name], value) for name, value in OURS.items())


def test_fused_projections_are_query_key_and_value_in_this_order():
    theirs = to_theirs([Pair("fused", ("q", "k", "v"), "thirds")], {"fused": torch.arange(6.0)})
    assert [theirs[name].tolist() for name in "qkv"] == [[0, 1], [2, 3], [4, 5]]


def test_a_transposed_matrix_computes_the_same():
    matrix, x = torch.randn(4, 3), torch.randn(2, 4)
    weight = to_theirs([Pair("turned", "b", "transposed")], {"turned": matrix})["b"]
    assert torch.allclose(torch.nn.functional.linear(x, weight), x @ matrix)


@pytest.mark.parametrize("change", [{"new": torch.zeros(1)}, {"same": None}])
def test_a_tensor_without_a_pair_is_refused_by_name(change: dict[str, torch.Tensor | None]):
    ours = {name: value for name, value in {**OURS, **change}.items() if value is not None}
    said = r"weights: new has no counterpart" if "new" in change else r"weights: same is missing"
    with pytest.raises(ModelError, match=said):
        to_theirs(PAIRS, ours)


def test_a_tensor_of_theirs_without_a_pair_is_refused_by_name():
    theirs = to_theirs(PAIRS, OURS)
    with pytest.raises(ModelError, match=r"weights: q is missing"):
        to_ours(PAIRS, {name: value for name, value in theirs.items() if name != "q"})
    with pytest.raises(ModelError, match=r"weights: extra has no counterpart"):
        to_ours(PAIRS, {**theirs, "extra": torch.zeros(1)})


def test_a_matrix_that_ours_has_not_must_change_nothing():
    theirs = {**to_theirs(PAIRS, OURS), "i": torch.eye(3) * 1.001}
    with pytest.raises(ModelError, match=r"weights: i is no identity"):
        to_ours(PAIRS, theirs)
