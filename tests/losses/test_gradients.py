import pytest
import torch

from contrastive.losses.gradients import is_asked, unusable, with_gradients


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


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        ([[1.0, float("nan")]], [[1.0, 0.0]], "image_features hold NaN or infinity (row 0)"),
        ([[1.0, 0.0]] * 3, [[float("inf"), 0.0]] * 2 + [[1.0, 0.0]], "text_features hold NaN or infinity (2 of 3 rows"),
        ([[3.0, 4.0]], [[1.0, 0.0]], "features must have length 1, and one has 5; normalise them"),
        ([[1.0, 0.0]], [[1.0, 0.0]], "the features of another process hold NaN or infinity"),
    ],
)
def test_the_cause_of_a_loss_that_is_no_number_is_named(image, text, message):
    assert unusable({"image_features": torch.tensor(image), "text_features": torch.tensor(text)}).startswith(message)
