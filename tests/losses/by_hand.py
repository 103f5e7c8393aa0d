"""The losses as a loop over samples in float64, and features to compare them on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Features = dict[str, Tensor]


def features(count: int, *, width: int = 8, scale: float = 20.0, bias: float | None = None, seed: int = 0) -> Features:
    """Random unit vectors in float64 that want gradients, image and text of a pair somewhat alike.

    They are exact in float32 too, so that rounding them is no part of a comparison.
    """
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    given = {
        "image_features": F.normalize(image, dim=-1),
        "text_features": F.normalize(text + image, dim=-1),
        "logit_scale": torch.tensor([math.log(scale)], dtype=torch.float64),
    }
    if bias is not None:
        given["logit_bias"] = torch.tensor([bias], dtype=torch.float64)
    return {name: value.float().double().requires_grad_() for name, value in given.items()}


def copy(given: Features, dtype: torch.dtype) -> Features:
    """The same features as new leaves of another precision."""
    return {name: value.detach().to(dtype).requires_grad_() for name, value in given.items()}


def equal(count: int, ids: list[Tensor]) -> Tensor:
    """Which samples are the same thing: bool [B, B], the diagonal included."""
    same = torch.eye(count, dtype=torch.bool)
    for one in ids:
        same |= one[:, None] == one[None, :]
    return same


def infonce(
    given: Features, ids: list[Tensor], *, masked: bool = False, smoothing: float = 0.0, hardness: float = 0.0
) -> Tensor:
    score = given["logit_scale"].exp() * given["image_features"] @ given["text_features"].T
    count = len(score)
    same, own = equal(count, ids), torch.eye(count, dtype=torch.bool)
    total = score.new_zeros(())
    for direction in (score, score.T):
        for i in range(count):
            positive = own[i] if masked else same[i]
            negative = ~same[i]
            allowed = positive | negative
            hard = (hardness * direction[i][negative]).exp()
            weight = hard / hard.mean() if len(hard) else hard
            denominator = direction[i][positive].exp().sum() + (weight * direction[i][negative].exp()).sum()
            target = (1 - smoothing) * positive.double() / positive.sum() + smoothing * allowed.double() / allowed.sum()
            total = total + denominator.log() - (target * direction[i]).sum()
    return total / (2 * count)


def sigmoid(given: Features, ids: list[Tensor], *, masked: bool = False, smoothing: float = 0.0) -> Tensor:
    logit = given["logit_scale"].exp() * given["image_features"] @ given["text_features"].T + given["logit_bias"]
    count = len(logit)
    same = equal(count, ids)
    total = logit.new_zeros(())
    for i in range(count):
        for j in range(count):
            if masked and same[i, j] and i != j:
                continue
            answer = (1 - smoothing) * float(same[i, j]) + smoothing / 2
            total = total - answer * F.logsigmoid(logit[i, j]) - (1 - answer) * F.logsigmoid(-logit[i, j])
    return total / count


def gradients(loss: Tensor, given: Features) -> Features:
    found = torch.autograd.grad(loss, list(given.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(given.items(), found, strict=True)
    }


def distance(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-12))
