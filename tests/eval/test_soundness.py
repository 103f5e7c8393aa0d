import math

import pytest
import torch
from torch import nn

from contrastive.errors import DataError, MeaninglessError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.soundness import checked, logits, readable
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import members, unit


def dataset(count: int, max_unreadable: float) -> EvalDataset:
    return EvalDataset(DatasetSpec("toy", "toy", max_unreadable=max_unreadable), members(count), ())


def test_rows_come_back_at_length_one() -> None:
    features, warnings = checked(3 * unit(5, 4, 0), "toy", list("abcde"))
    torch.testing.assert_close(features, unit(5, 4, 0))
    assert warnings == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_value_that_is_not_finite_is_refused_by_name(value: float) -> None:
    features = unit(5, 4, 0)
    features[3, 1] = value
    with pytest.raises(MeaninglessError, match="toy of 1 of 5 rows are not finite, the first of 'd'") as raised:
        checked(features, "toy", list("abcde"))
    assert raised.value.is_everywhere


def test_one_row_cannot_be_collapsed() -> None:
    assert checked(unit(1, 4, 0), "toy", ["a"])[1] == ()


def test_a_message_names_five_images_at_most() -> None:
    broken = {index: f"{index} is broken; replace it" for index in range(7)}
    with pytest.raises(DataError) as raised:
        readable(dataset(100, 0.06), broken, 100)
    message = str(raised.value)
    assert "dataset toy: 7 of 100 images (7.00%) cannot be read" in message
    assert "0.tar: s4, …; 0 is broken; replace it, or set max_unreadable, now 0.06, " in message
    assert "0.tar: s5" not in message


def test_a_rate_that_is_just_reached_is_allowed() -> None:
    kept, notes = readable(dataset(10, 0.3), {1: "", 2: "", 9: ""}, 10)
    assert [image.name for image in kept.images] == [f"0.tar: s{index}" for index in (0, 3, 4, 5, 6, 7, 8)]
    assert len(notes) == 1


def test_no_image_left_is_an_error() -> None:
    with pytest.raises(DataError, match="no readable image is left") as raised:
        readable(dataset(2, 1.0), {0: "", 1: ""}, 2)
    assert raised.value.is_everywhere


def test_a_temperature_that_is_not_finite_is_refused() -> None:
    model = nn.Module()
    assert logits(model) == (None, None)
    model.logit_scale = nn.Parameter(torch.tensor([math.log(20.0)]))
    assert logits(model) == (pytest.approx(20.0), None)
    model.logit_bias = nn.Parameter(torch.tensor(-1.5))
    assert logits(model)[1] == -1.5
    for value in (math.nan, 1e5):
        model.logit_scale.data.fill_(value)
        with pytest.raises(
            MeaninglessError, match=r"logit_scale of the model is not finite, .*; the model has diverged"
        ):
            logits(model)
