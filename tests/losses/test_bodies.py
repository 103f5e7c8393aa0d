import pytest
import torch

from contrastive.losses import softmax
from contrastive.losses.bodies import Body, FusedBody, body_for
from contrastive.losses.infonce import InfoNCE
from tests.losses import by_hand
from tests.losses.by_hand import copy, distance, features, gradients


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_sums_and_weights_are_those_of_the_exponentials(shift: float):
    scores, row, column = torch.randn(5, 7), torch.rand(5), torch.rand(7)
    scores[2, 3] = -torch.inf
    expected = (scores - shift).exp()
    body = Body(shift, torch.float32)
    prepared = body.prepare(scores.clone())
    torch.testing.assert_close(body.exponentials(prepared), expected)
    for found, wanted in zip(body.sums(prepared), (expected.sum(1), expected.sum(0), expected.amax(1)), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(body.weigh(prepared, row, column), expected * (row[:, None] + column[None]))


def test_a_cpu_takes_the_body_that_needs_no_compiler():
    assert type(body_for(torch.device("cpu"), 0.0, torch.float32)) is Body
    assert type(body_for(torch.device("cuda"), 0.0, torch.float32)) is FusedBody


@pytest.mark.slow
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_the_compiled_body_gives_the_same_loss_and_gradients(scale: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(softmax, "body_for", lambda _, shift, dtype: FusedBody(shift, dtype))
    given = features(9, scale=scale)
    ids = torch.tensor([7, 3, 7, 5, 7, 9, 3, 1, 2])
    expected = by_hand.infonce(given, [ids], smoothing=0.1)
    wanted, own = gradients(expected, given), copy(given, torch.float32)
    found = InfoNCE(label_smoothing=0.1, tile=(4, 5))(own, {"caption_id": ids})["loss"]
    assert found.item() == pytest.approx(expected.item(), rel=2e-6)
    for name, gradient in gradients(found, own).items():
        assert distance(gradient, wanted[name]) <= 5e-6, name
