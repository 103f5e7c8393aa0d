"""AdamW with the field's parameter groups, and the learning rate as a pure function of samples_seen."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.settings import OptimConfig


class StableAdamW(torch.optim.Optimizer):
    """AdamW whose update of a tensor shrinks where its second moment has not seen gradients as large as this one.

    Loss spikes follow steps in which AdamW underestimates the second moment, most of all in the embedding of patches.
    The rate of a tensor is divided by max(1, RMS), RMS^2 = mean(g^2 / max(v, eps^2)) (Wortsman et al. 2023,
    arXiv:2304.13013, algorithm 2). Its state has AdamW's names. As in torch's fused optimizers a `found_inf` of 1 makes
    a step change nothing, without the host waiting.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "a step computes its loss itself"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        (beta1, beta2), epsilon = group["betas"], group["eps"]
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        taken: Tensor | float = 1.0
        if self.found_inf is not None:
            taken = 1 - self.found_inf
            gradient = torch.where(self.found_inf.bool(), 0, gradient)
        state["step"] += taken
        count = state["step"].clamp(min=1)
        first = state["exp_avg"].lerp_(gradient, (1 - beta1) * taken) / (1 - beta1**count)
        second = state["exp_avg_sq"].lerp_(gradient.square(), (1 - beta2) * taken) / (1 - beta2**count)
        rms = (gradient.square() / second.clamp(min=epsilon**2)).mean().sqrt()
        rate = group["lr"] * taken / rms.clamp(min=1)
        parameter.mul_(1 - rate * group["weight_decay"]).sub_(rate * first / (second.sqrt() + epsilon))


def optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return AdamW; parameters of fewer than two dimensions (norms, biases, logit_scale) do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.clip_update:
        defaults = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "eps": config.epsilon}
        return StableAdamW(groups, defaults)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    options: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.epsilon, "fused": fused}
    return torch.optim.AdamW(groups, lr=config.learning_rate, **options)


def learning_rate(config: OptimConfig, samples_seen: int, total_samples: int) -> float:
    """Return the rate of the step that begins after `samples_seen` samples: linear warmup, then half a cosine."""
    if samples_seen < config.warmup_samples:
        return config.learning_rate * samples_seen / config.warmup_samples
    done = (samples_seen - config.warmup_samples) / max(1, total_samples - config.warmup_samples)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
