"""Model and losses as one module, so that DDP, FSDP and compile see one forward."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contrastive.config import Config
from contrastive.data.loader import Batch
from contrastive.errors import ConfigError
from contrastive.modalities.image import Preprocess
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.registry import AUGMENTATIONS, LOSSES, bind, build, convert


class ContrastiveTask(nn.Module):
    """A batch as the loader gives it to named scalar terms; `loss` is what is trained on."""

    def __init__(self, model: ContrastiveModel, preprocess: Preprocess, config: Config) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        specs = loss_specs(config)
        self.weights = {key: float(spec.get("weight", 1.0)) for key, spec in specs.items()}
        self.losses = nn.ModuleDict({key: build(LOSSES, _bare(spec), f"losses.{key}") for key, spec in specs.items()})
        self.augment: nn.Module = nn.Identity()
        if config.data.augment:
            self.augment = build(AUGMENTATIONS, config.data.augment, "data.augment")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, and every loss's terms as `NAME/term`, of image uint8 [b, 3, H, W] and text int64 [b, L]."""
        with attention_kernel(batch["image"].device):
            features = self.model(self.pixels(batch), batch["text"])
        terms: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for key, loss in self.losses.items():
            own = loss(features, batch)
            total = total + self.weights[key] * own["loss"]
            terms.update({f"{key}/{name}": value for name, value in own.items()})
        return {"loss": total, **terms}  # type: ignore[dict-item]  # a sum over at least one loss is a tensor

    def pixels(self, batch: Batch) -> Tensor:
        """Return the model's input, float32 [b, 3, H, W]: scaled to 0..1, augmented by each row's seed, normalised."""
        image = batch["image"].float() / 255
        if not isinstance(self.augment, nn.Identity):
            image = self.augment(image, batch["seed"])
        return self.preprocess.normalise(image)


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which attention is to run: PyTorch's own choice, except when training in bf16 on a CPU.

    There the backward pass of the flash kernel takes 2.5 to 4 times as long as the plain one (torch 2.15).
    """
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def loss_specs(config: Config) -> dict[str, Any]:
    """Return the losses of a run; one InfoNCE unless it names others."""
    return config.losses or {"contrastive": {"name": "infonce"}}


def check(config: Config) -> None:
    """Refuse losses and augmentations that cannot be built, before data or model are touched."""
    for key, spec in loss_specs(config).items():
        if not isinstance(spec, dict):
            raise ConfigError(f"losses.{key}: {spec!r} must be a mapping like {{name: infonce, weight: 1.0}}")
        if convert(spec.get("weight", 1.0), float, f"losses.{key}.weight") <= 0:
            raise ConfigError(f"losses.{key}.weight: {spec['weight']} must be more than 0; leave the loss out instead")
        bind(LOSSES, _bare(spec), f"losses.{key}")
    if config.data.augment:
        bind(AUGMENTATIONS, config.data.augment, "data.augment")


def _bare(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "weight"}
