import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.errors import ConfigError, RunError
from contrastive.losses.infonce import InfoNCE
from tests.losses import by_hand
from tests.losses.by_hand import distance, features, gradients

EPSILON = {torch.float64: 1e-11, torch.float32: 2e-6}
IDS = {"caption_id": torch.tensor([7, 3, 7, 5, 7, 9, 3, 1, 2]), "image_id": torch.tensor([1, 2, 3, 3, 5, 6, 7, 8, 6])}


def compare(
    loss: InfoNCE, batch: dict[str, Tensor], expected: Tensor, given: by_hand.Features, factor: float = 1
) -> None:
    wanted = gradients(expected, given)
    for dtype in EPSILON:
        epsilon = EPSILON[dtype] * factor
        own = by_hand.copy(given, dtype)
        found = loss(own, batch)["loss"]
        assert found.item() == pytest.approx(expected.item(), rel=epsilon)
        for name, gradient in gradients(found, own).items():
            assert distance(gradient, wanted[name]) <= epsilon, (name, dtype)


@pytest.mark.parametrize("tile", [None, (4, 3), (2, 100), (1, 1)])
@pytest.mark.parametrize("hard_negatives", [0.0, 0.5])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("by", ["caption", ["caption", "image"]])
@pytest.mark.parametrize("duplicates", ["positives", "masked", "negatives"])
def test_value_and_gradients_are_those_of_a_loop(duplicates, by, label_smoothing, hard_negatives, tile):
    given = features(9)
    names = [] if duplicates == "negatives" else [by] if isinstance(by, str) else by
    options = {"masked": duplicates == "masked", "smoothing": label_smoothing, "hardness": hard_negatives}
    expected = by_hand.infonce(given, [IDS[f"{name}_id"] for name in names], **options)
    compare(InfoNCE(duplicates, by, label_smoothing, hard_negatives, tile), IDS, expected, given)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("duplicates", ["positives", "masked"])
def test_gradcheck_in_float64(duplicates, scale):
    given = features(5, scale=scale)
    batch = {"caption_id": torch.tensor([1, 2, 1, 3, 4])}
    loss = InfoNCE(duplicates, label_smoothing=0.1, hard_negatives=0.3, tile=(2, 3))

    def value(*inputs: Tensor) -> Tensor:
        return loss(dict(zip(given, inputs, strict=True)), batch)["loss"]

    assert torch.autograd.gradcheck(value, tuple(given.values()))


@pytest.mark.parametrize("scale", [1.0, 50.0, 100.0])
@pytest.mark.parametrize("kind", ["alike", "opposite", "random"])
def test_float32_is_as_close_to_float64_as_a_dense_float32_loss(kind, scale):
    given = features(64, width=16, scale=scale)
    if kind != "random":
        text = given["image_features"].detach() * (1 if kind == "alike" else -1)
        given["text_features"] = text.requires_grad_()
    batch = {"caption_id": torch.arange(64)}
    expected = gradients(by_hand.infonce(given, []), given)
    ours, dense = (by_hand.copy(given, torch.float32) for _ in range(2))
    found = gradients(InfoNCE(tile=(16, 24))(ours, batch)["loss"], ours)
    score = dense["logit_scale"].exp() * dense["image_features"] @ dense["text_features"].T
    own = torch.arange(64)
    plain = gradients((F.cross_entropy(score, own) + F.cross_entropy(score.T, own)) / 2, dense)
    for name in given:
        assert distance(found[name], expected[name]) <= max(1e-6, 2 * distance(plain[name], expected[name])), name


def test_scores_that_float32_cannot_hold_are_summed_in_float64():
    """Every text lies opposite all images: logits are -92 and -100, and exp(-92 - 30) is no float32."""
    image = F.normalize(torch.cat([torch.ones(4, 1), 0.3 * torch.eye(4)], dim=1).double(), dim=-1)
    given = {"image_features": image, "text_features": -image, "logit_scale": torch.tensor([math.log(100.0)]).double()}
    given = {name: value.float().double().requires_grad_() for name, value in given.items()}
    # Scores near -100 are themselves known to 1e-5 only in float32.
    compare(InfoNCE(tile=(3, 2)), {"caption_id": torch.arange(4)}, by_hand.infonce(given, []), given, factor=100)


def test_permuting_the_batch_permutes_the_gradients():
    given, order = features(9), torch.tensor([3, 1, 8, 0, 7, 2, 4, 6, 5])
    moved = {
        k: (v.detach()[order] if "features" in k else v.detach()).clone().requires_grad_() for k, v in given.items()
    }
    loss = InfoNCE(tile=(4, 4))
    before = gradients(loss(given, IDS)["loss"], given)
    after = gradients(loss(moved, {k: v[order] for k, v in IDS.items()})["loss"], moved)
    for name in ("image_features", "text_features"):
        torch.testing.assert_close(after[name], before[name][order])
    torch.testing.assert_close(after["logit_scale"], before["logit_scale"])


def test_identical_embeddings_have_the_loss_of_chance_and_match_nothing():
    one = F.normalize(torch.ones(6, 4), dim=-1)
    given = {"image_features": one, "text_features": one.clone(), "logit_scale": torch.tensor([2.0])}
    terms = InfoNCE()(given, {"caption_id": torch.arange(6)})
    assert terms["loss"].item() == pytest.approx(math.log(6), rel=1e-6)
    assert terms["accuracy"].item() == 0.0


def test_one_sample_costs_nothing():
    given = features(1)
    terms = InfoNCE(hard_negatives=0.5)(given, {"caption_id": torch.tensor([3])})
    assert terms["loss"].item() == pytest.approx(0.0, abs=1e-12)
    assert terms["accuracy"].item() == 1.0
    assert all(gradient.abs().max() <= 1e-12 for gradient in gradients(terms["loss"], given).values())


def test_figures_are_those_of_the_whole_score_matrix():
    given = features(9, width=2)
    batch = {"caption_id": IDS["caption_id"]}
    terms = InfoNCE(tile=(4, 5))(given, batch)
    cosine = (given["image_features"] @ given["text_features"].T).detach()
    same = by_hand.equal(9, [IDS["caption_id"]])
    right = cosine.masked_fill(~same, -2).amax(1) > cosine.masked_fill(same, -2).amax(1)
    assert 0 < right.float().mean() < 1
    assert terms["accuracy"].item() == pytest.approx(right.float().mean().item())
    assert terms["positive_similarity"].item() == pytest.approx(cosine.diagonal().mean().item())
    assert terms["negative_similarity"].item() == pytest.approx(cosine[~same].mean().item())
    assert terms["duplicates"].item() == pytest.approx(5 / 9)


def test_low_precision_features_are_summed_in_float32():
    given = by_hand.copy(features(32), torch.bfloat16)
    wide = by_hand.copy(given, torch.float32)
    batch = {"caption_id": torch.arange(32)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = InfoNCE()(given, batch)["loss"], InfoNCE()(wide, batch)["loss"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradient = torch.autograd.grad(found, given["image_features"])[0]
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, wide["image_features"])[0].bfloat16())


@pytest.mark.parametrize("frozen", [["image_features"], ["text_features"], ["image_features", "text_features"]])
def test_a_frozen_tower_leaves_the_other_gradients_as_they_are(frozen):
    given = features(9)
    expected = gradients(InfoNCE()(given, IDS)["loss"], given)
    some = {k: v.detach() if k in frozen else v for k, v in given.items()}
    trained = {k: v for k, v in given.items() if k not in frozen}
    for name, gradient in gradients(InfoNCE(tile=(4, 4))(some, IDS)["loss"], trained).items():
        torch.testing.assert_close(gradient, expected[name])


def test_without_gradients_only_the_value_is_computed():
    given = features(9)
    with torch.no_grad():
        found = InfoNCE()(given, IDS)["loss"]
    assert not found.requires_grad
    assert found.item() == pytest.approx(InfoNCE()(given, IDS)["loss"].item())


def test_a_bias_gets_a_gradient_of_zero():
    given = features(9, bias=-10.0)
    InfoNCE()(given, IDS)["loss"].backward()
    assert given["logit_bias"].grad.item() == 0.0


@pytest.mark.parametrize("name", ["image_features", "text_features"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers_give_a_loss_and_gradients_that_are_none(name, value):
    given = by_hand.copy(features(9), torch.float32)
    with torch.no_grad():
        given[name][4, 2] = value
    terms = InfoNCE()(given, IDS)
    assert set(terms) == {"loss"}
    assert terms["loss"].isnan()
    terms["loss"].backward()
    assert all(given[x].grad.isnan().all() for x in ("image_features", "text_features", "logit_scale"))
    with torch.no_grad():
        assert InfoNCE()(given, IDS)["loss"].isnan()


def test_features_far_from_unit_length_are_an_error():
    given = by_hand.copy(features(9, scale=100.0), torch.float32)
    given["image_features"] = given["image_features"].detach() * 50
    with pytest.raises(RunError, match="features must have length 1, and one has 50; normalise them"):
        InfoNCE()(given, IDS)


def test_missing_ids_are_an_error():
    with pytest.raises(ConfigError, match=r"duplicates by label need ids in the batch: label_id, int64 \[b\]"):
        InfoNCE(duplicates_by="label")(features(4), {})


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, {"caption_id"}),
        ({"duplicates": "negatives", "duplicates_by": "label"}, set()),
        ({"duplicates_by": ["label", "image"]}, {"label_id", "image_id"}),
    ],
)
def test_it_says_which_ids_it_needs(options, needed):
    assert InfoNCE.needs(options) == needed


@pytest.mark.parametrize("option", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"hard_negatives": 4.0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: .* must be at least 0 and"):
        InfoNCE(**option)
