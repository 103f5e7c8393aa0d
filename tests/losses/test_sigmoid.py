import math

import pytest
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.losses.sigmoid import Sigmoid
from tests.losses import by_hand
from tests.losses.by_hand import distance, features, gradients

IDS = {"caption_id": torch.tensor([7, 3, 7, 5, 7, 9, 3, 1, 2]), "image_id": torch.tensor([1, 2, 3, 3, 5, 6, 7, 8, 6])}


@pytest.mark.parametrize("tile", [None, (4, 3), (1, 1)])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 2.0)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("by", ["caption", ["caption", "image"]])
@pytest.mark.parametrize("duplicates", ["positives", "masked", "negatives"])
def test_value_and_gradients_are_those_of_a_loop(duplicates, by, label_smoothing, scale, bias, tile):
    given = features(9, scale=scale, bias=bias)
    names = [] if duplicates == "negatives" else [by] if isinstance(by, str) else by
    ids = [IDS[f"{name}_id"] for name in names]
    expected = by_hand.sigmoid(given, ids, masked=duplicates == "masked", smoothing=label_smoothing)
    wanted = gradients(expected, given)
    loss = Sigmoid(duplicates, by, label_smoothing, tile)
    for dtype, epsilon in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        own = by_hand.copy(given, dtype)
        found = loss(own, IDS)["loss"]
        assert found.item() == pytest.approx(expected.item(), rel=epsilon)
        for name, gradient in gradients(found, own).items():
            assert distance(gradient, wanted[name]) <= epsilon, (name, dtype)


def test_gradcheck_in_float64():
    given = features(5, bias=-3.0)
    batch = {"caption_id": torch.tensor([1, 2, 1, 3, 4])}
    loss = Sigmoid(label_smoothing=0.1, tile=(2, 3))

    def value(*inputs: Tensor) -> Tensor:
        return loss(dict(zip(given, inputs, strict=True)), batch)["loss"]

    assert torch.autograd.gradcheck(value, tuple(given.values()))


def test_figures_are_those_of_infonce():
    from contrastive.losses.infonce import InfoNCE

    given = features(9, bias=-3.0)
    sigmoid, infonce = Sigmoid(tile=(4, 4))(given, IDS), InfoNCE()(given, IDS)
    assert set(sigmoid) == set(infonce)
    for name in set(sigmoid) - {"loss"}:
        torch.testing.assert_close(sigmoid[name], infonce[name])


def test_a_frozen_tower_leaves_the_other_gradients_as_they_are():
    given = features(9, bias=-3.0)
    expected = gradients(Sigmoid()(given, IDS)["loss"], given)
    some = {**given, "image_features": given["image_features"].detach()}
    trained = {k: v for k, v in given.items() if k != "image_features"}
    for name, gradient in gradients(Sigmoid()(some, IDS)["loss"], trained).items():
        torch.testing.assert_close(gradient, expected[name])


def test_one_sample_is_one_answer():
    given = features(1, bias=-3.0)
    expected = by_hand.sigmoid(given, []).item()
    assert Sigmoid()(given, {"caption_id": torch.tensor([1])})["loss"].item() == pytest.approx(expected)


def test_features_that_are_no_numbers_give_a_loss_and_gradients_that_are_none():
    given = by_hand.copy(features(9, bias=-3.0), torch.float32)
    with torch.no_grad():
        given["text_features"][4, 2] = math.nan
    loss = Sigmoid()(given, IDS)["loss"]
    assert loss.isnan()
    loss.backward()
    assert all(given[x].grad.isnan().any() for x in ("image_features", "text_features", "logit_scale", "logit_bias"))


def test_a_model_without_a_bias_is_refused():
    with pytest.raises(ConfigError, match=r"sigmoid needs a learned bias; set model.init_logit_bias=-10"):
        Sigmoid()(features(4), IDS)
    assert Sigmoid.needs({"duplicates": "negatives"}) == {"logit_bias"}


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing: 1\.5 must be at least 0 and less than 1"):
        Sigmoid(label_smoothing=1.5)
