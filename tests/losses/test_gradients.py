import pytest
import torch

from contrastive.errors import RunError
from contrastive.losses.gradients import is_asked, not_a_number, with_gradients


def test_given_gradients_are_multiplied_by_the_outer_one():
    x, y = torch.ones(3, requires_grad=True), torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    loss = with_gradients(torch.tensor(5.0), [x, None, y, x], [torch.arange(3.0), None, torch.ones(2), None])
    assert loss.item() == 5.0
    (3 * loss).backward()
    assert x.grad.tolist() == [0.0, 3.0, 6.0]
    assert y.grad.tolist() == [3.0, 3.0]
    assert y.grad.dtype == torch.bfloat16


def test_a_kept_graph_gives_the_same_gradients_again():
    x = torch.ones(3, requires_grad=True)
    loss = with_gradients(torch.tensor(5.0), [x], [torch.arange(3.0)])
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_gradients_are_asked_of_what_requires_them_while_they_are_recorded():
    x = torch.ones(3, requires_grad=True)
    assert is_asked(x)
    assert not is_asked(x.detach())
    assert not is_asked(None)
    with torch.no_grad():
        assert not is_asked(x)


def test_a_loss_that_is_no_number_has_gradients_that_are_none_either_by_every_input():
    image = torch.tensor([[1.0, float("nan")]], requires_grad=True)
    text, scale = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.ones(1, dtype=torch.float64, requires_grad=True)
    given = {"image_features": image, "text_features": text, "logit_scale": scale}
    loss = not_a_number(given, [image, text, scale, None])
    assert loss.isnan()
    loss.backward()
    assert all(x.grad.isnan().all() for x in (image, text, scale))


def test_a_loss_that_is_no_number_because_features_are_long_is_a_mistake():
    given = {"image_features": torch.tensor([[3.0, 4.0]]), "text_features": torch.tensor([[1.0, 0.0]])}
    with pytest.raises(RunError, match="features must have length 1, and one has 5; normalise them"):
        not_a_number(given, list(given.values()))
    given["text_features"] = torch.tensor([[float("inf"), 0.0]])
    assert not_a_number(given, list(given.values())).isnan()
