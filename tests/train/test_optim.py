import math

import pytest
import torch
from torch import nn

from contrastive.settings import OptimConfig
from contrastive.train.optim import learning_rate, optimizer


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_only_matrices_decay():
    model = Model()
    decayed, plain = optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    assert {id(p) for p in plain["params"]} == {id(p) for p in model.parameters() if p.ndim < 2}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_a_step_is_adamws_formula():
    model = Model()
    config = OptimConfig(learning_rate=0.1, weight_decay=0.3, beta1=0.8, beta2=0.9, epsilon=1e-3)
    before = model.linear.weight.detach().clone()
    model.linear(torch.ones(1, 3)).sum().backward()
    gradient = model.linear.weight.grad.clone()
    optimizer(model, config).step()
    # With one step the bias corrections turn both moments into the gradient itself.
    expected = before * (1 - 0.1 * 0.3) - 0.1 * gradient / (gradient.abs() + 1e-3)
    torch.testing.assert_close(model.linear.weight.detach(), expected)


@pytest.mark.parametrize(
    ("samples_seen", "expected"),
    [
        (0, 0.0),
        (50, 0.5),
        (100, 1.0),
        (550, 0.55),
        (1000, 0.1),
        (2000, 0.1),
        (325, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
    ],
)
def test_the_rate_is_a_warmup_and_half_a_cosine_of_samples(samples_seen: int, expected: float):
    config = OptimConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_samples=100)
    assert learning_rate(config, samples_seen, 1000) == pytest.approx(expected)


def test_without_warmup_the_first_step_has_the_peak():
    assert learning_rate(OptimConfig(learning_rate=1.0), 0, 10) == 1.0
