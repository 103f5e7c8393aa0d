import math

import pytest
import torch
from torch import nn

from contrastive.settings import OptimConfig
from contrastive.train.optim import StableAdamW, learning_rate, optimizer


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


def by_hand(weight: float, gradients: list[float], config: OptimConfig, decay: float) -> float:
    """Algorithm 2 of arXiv:2304.13013 on one number, with its own debiasing."""
    v = u = 0.0
    for t, g in enumerate(gradients, start=1):
        beta1 = config.beta1 * (1 - config.beta1 ** (t - 1)) / (1 - config.beta1**t)
        beta2 = config.beta2 * (1 - config.beta2 ** (t - 1)) / (1 - config.beta2**t)
        v, u = beta1 * v + (1 - beta1) * g, beta2 * u + (1 - beta2) * g * g
        rate = config.learning_rate / max(1.0, math.sqrt(g * g / max(u, config.epsilon**2)))
        weight = weight - rate * decay * weight - rate * v / (math.sqrt(u) + config.epsilon)
    return weight


def clipped(weight: float, config: OptimConfig) -> tuple[nn.Parameter, StableAdamW]:
    parameter = nn.Parameter(torch.tensor([[weight]], dtype=torch.float64))
    model = nn.ParameterList([parameter])
    found = optimizer(model, config)
    assert isinstance(found, StableAdamW)
    return parameter, found


def test_a_clipped_update_is_the_papers_and_smaller_after_a_leap():
    config = OptimConfig(clip_update=True, learning_rate=0.1, weight_decay=0.3, beta1=0.8, beta2=0.9)
    gradients = [1.0, 1.1, -0.3, 500.0, 0.2]
    parameter, stable = clipped(2.0, config)
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        stable.step()
    assert parameter.item() == pytest.approx(by_hand(2.0, gradients, config, 0.3), rel=1e-6)


def test_the_clipping_takes_the_mean_over_a_tensor():
    config = OptimConfig(clip_update=True, learning_rate=0.1, weight_decay=0.0, beta1=0.0, beta2=0.5)
    parameter = nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    stable = optimizer(nn.ParameterList([parameter]), config)
    for gradient in ([1.0, 1.0, 1.0, 1.0], [9.0, 1.0, 1.0, 1.0]):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        stable.step()
    second = torch.tensor([81 * 2 / 3 + 1 / 3, 1.0, 1.0, 1.0], dtype=torch.float64)  # debiased: weights 2/3 and 1/3
    g = torch.tensor([9.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    rate = 0.1 / (g.square() / second).mean().sqrt()
    torch.testing.assert_close(parameter[0].detach(), before[0] - rate * g / (second.sqrt() + 1e-6))


def test_a_step_that_found_what_is_not_finite_changes_nothing():
    config = OptimConfig(clip_update=True, learning_rate=0.1, weight_decay=0.3)
    (plain, one), (other, two) = clipped(2.0, config), clipped(2.0, config)
    for gradient, bad in ((float("nan"), 1.0), (1.0, 0.0), (float("inf"), 1.0), (-2.0, 0.0)):
        before = other.detach().clone()
        other.grad = torch.full_like(other, gradient)
        two.found_inf = torch.tensor(bad)
        two.step()
        if bad:
            assert torch.equal(other, before)
        else:
            plain.grad = torch.full_like(plain, gradient)
            one.step()
    torch.testing.assert_close(plain, other)
    assert two.state[other]["step"] == 2
