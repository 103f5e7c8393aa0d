import pytest
import torch

from contrastive.losses.repeats import Repeats
from contrastive.losses.softmax import SymmetricSoftmax, Targets, solve
from contrastive.losses.tiles import Pairs
from tests.losses.by_hand import features

PLAIN = Targets(None, masked=False, smoothing=0.0, hardness=0.0)


def softmax(scale: float, shift: float, targets: Targets = PLAIN) -> SymmetricSoftmax:
    given = features(9, scale=scale)
    image, text = given["image_features"].detach().float(), given["text_features"].detach().float()
    return SymmetricSoftmax(Pairs(image, text, given["logit_scale"].detach().float(), (4, 5)), targets, shift)


@pytest.mark.parametrize("hardness", [0.0, 0.5])
def test_totals_are_the_sums_of_exponentials_by_row_and_column(hardness: float):
    repeats = Repeats(torch.tensor([[7, 3, 7, 5, 7, 9, 3, 1, 2]]), 0, 9)
    tiled = softmax(5.0, 0.0, Targets(repeats, masked=True, smoothing=0.0, hardness=hardness))
    score = (tiled.pairs.image @ tiled.pairs.text.T * tiled.pairs.scale).double()
    same = repeats.ids[0][:, None] == repeats.ids[0]
    found, is_number = solve(tiled, keep=False)
    assert is_number
    for sums, s in ((found.row, score), (found.column, score.T)):
        for i in range(9):
            negative = s[i][~same[i]].exp()
            weight = s[i][~same[i]].mul(hardness).exp()
            expected = s[i, i].exp() + (negative * weight / weight.mean()).sum()
            assert tiled.totals(sums, slice(None))[i].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_shift_out_of_range_is_noticed_and_the_sums_are_made_again_in_float64():
    tiled = softmax(14.0, 200.0)  # exp(14 - 200) is no float32
    found, is_number = solve(tiled, keep=True)
    assert is_number
    assert tiled.dtype == found.row.dtype == torch.float64
    expected, _ = solve(softmax(14.0, 0.0), keep=True)
    for far, near in ((found.row, expected.row), (found.column, expected.column)):
        torch.testing.assert_close(tiled.totals(far, slice(None)).log() + 200, near.double()[:2].sum(dim=0).log())


def test_in_range_it_stays_in_float32():
    tiled = softmax(100.0, 30.0)
    assert solve(tiled, keep=True)[1]
    assert tiled.dtype == torch.float32


def test_what_no_float_holds_is_said_and_not_returned():
    assert not solve(softmax(14.0, 2000.0), keep=False)[1]


def test_hard_negatives_that_float32_cannot_hold_are_summed_in_float64():
    """Negatives at -50 to the power of 2 are no float32, though they and the positives at -49 are."""
    image = torch.nn.functional.normalize(torch.cat([torch.ones(4, 1), 0.1 * torch.eye(4)], dim=1), dim=-1)
    pairs = Pairs(image, -image.roll(1, dims=0), torch.tensor([50.0]).log(), (3, 2))
    tiled = SymmetricSoftmax(pairs, Targets(None, masked=False, smoothing=0.0, hardness=1.0), 0.0)
    found, is_number = solve(tiled, keep=False)
    assert is_number
    assert tiled.dtype == torch.float64
    score = 50 * image.double() @ -image.double().roll(1, dims=0).T
    for i in range(4):
        negative = score[i][torch.arange(4) != i].exp()
        expected = score[i, i].exp() + 3 * negative.square().sum() / negative.sum()
        assert tiled.totals(found.row, slice(None))[i].item() == pytest.approx(expected.item(), rel=1e-4)
