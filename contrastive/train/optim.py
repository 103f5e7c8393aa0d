"""AdamW with the field's parameter groups, and the learning rate as a pure function of samples_seen."""

import math
from typing import Any

import torch
from torch import nn

from contrastive.settings import OptimConfig


def optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW; parameters of fewer than two dimensions (norms, biases, logit_scale) do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
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
