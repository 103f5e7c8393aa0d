import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from contrastive.losses.infonce import InfoNCE


def features(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, 8, generator=generator, dtype=dtype) for _ in range(2))
    pair = {"image_features": F.normalize(image, dim=-1), "text_features": F.normalize(text, dim=-1)}
    return {**pair, "logit_scale": nn.Parameter(torch.full((1,), math.log(20.0), dtype=dtype))}


def by_hand(given: dict[str, Tensor]) -> float:
    """Mean over pairs of -log softmax, both ways, one number at a time."""
    image, text = given["image_features"].tolist(), given["text_features"].tolist()
    scale = math.exp(given["logit_scale"].item())
    score = [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for y in text] for x in image]
    total = 0.0
    for i in range(len(image)):
        total += math.log(sum(math.exp(score[i][j] - score[i][i]) for j in range(len(text))))
        total += math.log(sum(math.exp(score[j][i] - score[i][i]) for j in range(len(image))))
    return total / (2 * len(image))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_loss_is_that_of_a_loop_over_pairs(count: int):
    given = features(count)
    assert InfoNCE()(given, {})["loss"].item() == pytest.approx(by_hand(given), rel=1e-5, abs=1e-6)


def test_loss_and_gradients_are_those_of_open_clip():
    ours, theirs = features(16), features(16)
    for given in (ours, theirs):
        given["image_features"].requires_grad_()
    InfoNCE()(ours, {})["loss"].backward()
    ClipLoss()(theirs["image_features"], theirs["text_features"], theirs["logit_scale"].exp()).backward()
    torch.testing.assert_close(ours["image_features"].grad, theirs["image_features"].grad)
    torch.testing.assert_close(ours["logit_scale"].grad, theirs["logit_scale"].grad)


def test_accuracy_counts_images_whose_own_text_scores_highest():
    given = features(6)
    score = given["image_features"] @ given["text_features"].T
    expected = sum(int(score[i].argmax()) == i for i in range(6)) / 6
    assert InfoNCE()(given, {})["accuracy"].item() == pytest.approx(expected)


def test_scores_are_float32_under_autocast():
    given = features(32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = InfoNCE()(given, {})["loss"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, InfoNCE()(given, {})["loss"], rtol=0, atol=0)


def test_equal_captions_share_the_target_as_in_a_loop():
    given = features(5)
    ids = torch.tensor([7, 3, 7, 5, 7])
    found = InfoNCE("caption")(given, {"caption_id": ids})
    scale = given["logit_scale"].exp()
    rows = (scale * given["image_features"] @ given["text_features"].T).log_softmax(dim=1)
    columns = (scale * given["image_features"] @ given["text_features"].T).log_softmax(dim=0)
    total = 0.0
    for i in range(5):
        same = [j for j in range(5) if ids[j] == ids[i]]
        total -= sum(rows[i, j].item() + columns[j, i].item() for j in same) / len(same)
    assert found["loss"].item() == pytest.approx(total / 10, rel=1e-5)
    assert found["duplicates"].item() == pytest.approx(3 / 5)


def test_without_repeats_both_kinds_of_positives_are_one_loss():
    given, batch = features(6), {"caption_id": torch.arange(6)}
    for name in ("loss", "accuracy"):
        one, other = InfoNCE("pair")(given, batch)[name], InfoNCE("caption")(given, batch)[name]
        torch.testing.assert_close(one, other)
