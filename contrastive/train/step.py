"""One training step: forward and backward as planned, clip, vote, update."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from contrastive.data.rows import Batch
from contrastive.settings import MAX_LOGIT_SCALE
from contrastive.train.caching import CachedBackward, StepPlan, require_replayed
from contrastive.train.sharding import whole
from contrastive.train.vote import Asked, Votes

DRIFT = "replay_drift/"


class Step:
    """The step of a run. `clip` bounds the norm of all gradients; None only measures it."""

    def __init__(
        self,
        accelerator: Accelerator,
        task: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: StepPlan,
        clip: float | None,
    ) -> None:
        self.accelerator, self.task, self.optimizer, self.clip = accelerator, task, optimizer, clip
        self.model = accelerator.unwrap_model(task).model
        self.cached = CachedBackward(accelerator, task, plan) if plan.kind == "cached" else None
        self.votes = Votes(accelerator.device)

    def __call__(
        self, batch: Batch, *, is_read: bool, number: int = 0, asks: Callable[[], Asked] = Asked
    ) -> dict[str, Tensor]:
        """Return the step's terms with its `grad_norm` and, where somebody reads them, the rest of its `health`.

        All are detached and on the device: the host does not wait. Ranks vote in step `number` on what each of them
        `asks` for, and on whether loss and gradient are finite: if they are not, on any rank, no rank's weights change.

        Raises:
            RunError: see `CachedBackward`.
        """
        terms = self._plain(batch) if self.cached is None else self.cached(batch)
        health = self._clip(is_read)
        self._update(self.votes.cast(number, terms["loss"], health["grad_norm"], asks()))
        if is_read:
            health.update(self._logits(), **self._drift())
        return {name: value.detach() for name, value in {**terms, **health}.items()}

    def rehearse(self, batch: Batch) -> None:
        """Go through forward and backward and forget them.

        DDP sets up its buckets anew after the first backward pass, and sums gradients in another order from then on.
        A run that goes on with its weights already there has to have that behind it, or differs in the last bits.
        """
        if isinstance(self.task, DistributedDataParallel):
            self._plain(batch) if self.cached is None else self.cached(batch)
            self.optimizer.zero_grad(set_to_none=True)
            self._drift()

    def _update(self, bad: Tensor) -> None:
        """Update the weights unless `bad` is 1; the device decides, where the optimizer can."""
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # Accelerate's is a wrapper
        if self.accelerator.scaler is not None:
            self.optimizer.step()  # the scaler looks for itself, at the same gradients
        elif getattr(inner, "_step_supports_amp_scaling", False):  # fused: what torch's own scaler relies on
            inner.found_inf = bad
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clamp_logit_scale(self.model.logit_scale)

    def require_exact(self, values: Mapping[str, float]) -> None:
        """Refuse a drift between the passes of a cached step, as `values` of the ranks tell it: on all ranks alike.

        Raises:
            RunError: it is more than rounding.
        """
        for name, value in values.items():
            if name.startswith(DRIFT):
                require_replayed(name.removeprefix(DRIFT), value, self.accelerator.mixed_precision)

    def _plain(self, batch: Batch) -> Mapping[str, Tensor]:
        terms: Mapping[str, Tensor] = self.task(batch)
        self.accelerator.backward(terms["loss"])
        return terms

    def _clip(self, is_read: bool) -> dict[str, Tensor]:
        """Clip; return the norms of the gradients before it: of all and, where they are read, of each tower."""
        parameters = list(self.task.parameters())
        if not is_read:
            bound = torch.inf if self.clip is None else self.clip
            return {"grad_norm": whole(self.accelerator.clip_grad_norm_(parameters, bound))}
        # An infinite bound clips nothing, measures, and takes an fp16 loss's scale out of the gradients.
        norm = self.accelerator.clip_grad_norm_(parameters, torch.inf)
        towers = {f"grad_norm/{name}": _norm(own, whole(norm)) for name, own in self.model.towers().items()}
        if self.clip is not None:
            clip_grads_with_norm_(parameters, self.clip, norm)
        return {"grad_norm": whole(norm), **towers}

    def _logits(self) -> dict[str, Tensor]:
        """Return the scale of the logits, out of log space, and their bias where there is one, after the step."""
        own = {name: whole(value) for name, value in self.model.logit_parameters().items()}
        return {**own, "logit_scale": own["logit_scale"].exp()}

    def _drift(self) -> dict[str, Tensor]:
        if self.cached is None:
            return {}
        drift = {DRIFT + tower: value for tower, value in self.cached.drift.items()}
        self.cached.forget_drift()
        return drift


def _norm(parameters: list[nn.Parameter], like: Tensor) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return whole(get_total_norm(gradients)) if gradients else torch.zeros_like(like)


@torch.no_grad()
def clamp_logit_scale(logit_scale: nn.Parameter) -> None:
    """Keep the temperature in [0.01, 1] (Radford et al. 2021, section 2.5): logit_scale in [0, ln 100]."""
    logit_scale.clamp_(0, MAX_LOGIT_SCALE)
