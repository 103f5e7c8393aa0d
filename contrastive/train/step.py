"""One training step."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive.config import MAX_LOGIT_SCALE
from contrastive.data.loader import Batch


def train_step(
    accelerator: Accelerator, task: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, clip: float | None
) -> dict[str, Tensor]:
    """Run forward, backward, clip and update; return the step's terms and `grad_norm`, all detached, none copied."""
    terms: Mapping[str, Tensor] = task(batch)
    accelerator.backward(terms["loss"])
    # An infinite bound clips nothing and still measures.
    norm = accelerator.clip_grad_norm_(task.parameters(), torch.inf if clip is None else clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    clamp_logit_scale(accelerator.unwrap_model(task).model.logit_scale)
    return {**{name: value.detach() for name, value in terms.items()}, "grad_norm": norm.detach()}


@torch.no_grad()
def clamp_logit_scale(logit_scale: nn.Parameter) -> None:
    """Keep the temperature in [0.01, 1] (Radford et al. 2021, section 2.5): logit_scale in [0, ln 100]."""
    logit_scale.clamp_(0, MAX_LOGIT_SCALE)
