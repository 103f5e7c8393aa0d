"""Model and losses as one module, so that DDP, FSDP and compile see one forward."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

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
    """A batch as the loader gives it to named scalar terms; `loss` is what is trained on.

    Raises:
        ConfigError: a loss reads a logit bias and the model has none.
    """

    def __init__(self, model: ContrastiveModel, preprocess: Preprocess, config: Config) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        specs = loss_specs(config)
        for key, spec in specs.items():
            if model.logit_bias is None and "logit_bias" in _needs(spec, key):
                raise ConfigError(_without_bias(spec, key))
        self.weights = {key: float(spec.get("weight", 1.0)) for key, spec in specs.items()}
        self.losses = nn.ModuleDict({key: build(LOSSES, _bare(spec), f"losses.{key}") for key, spec in specs.items()})
        self.augment: nn.Module = nn.Identity()
        if config.data.augment:
            self.augment = build(AUGMENTATIONS, config.data.augment, "data.augment")

    def forward(self, batch: Batch, result: Literal["terms", "features"] = "terms") -> dict[str, Tensor]:
        """Return the terms of a whole batch (see `score`), or the features of what `batch` holds, image or text.

        The batch has image uint8 [b, 3, H, W], text int64 [b, L], and what the augmentation and the losses read.
        """
        device = next(iter(batch.values())).device
        with attention_kernel(device, self.training):
            image = self.pixels(batch) if "image" in batch else None
            features: dict[str, Tensor] = self.model(image, batch.get("text"))
        if result == "features":
            return {name: value for name, value in features.items() if name.endswith("_features")}
        terms = self.score(features, batch)
        # DDP waits for every parameter's gradient, also where no loss reads a temperature or bias.
        unread = sum(parameter.sum() for parameter in self.model.logit_parameters().values())
        return {**terms, "loss": terms["loss"] + 0 * unread}

    def score(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum of all losses, and every loss's terms as `NAME/term`."""
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


def attention_kernel(device: torch.device, is_training: bool) -> AbstractContextManager[None]:
    """Return the context in which attention is to run: PyTorch's own choice, except when training in bf16 on a CPU.

    There the backward pass of the flash kernel takes 2.5 to 4 times as long as the plain one (torch 2.15). The choice
    does not ask whether gradients are on: a forward without them must round as the one that is replayed with them.
    """
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and is_training:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def loss_specs(config: Config) -> dict[str, Any]:
    """Return the losses of a run; one InfoNCE unless it names others."""
    return config.losses or {"contrastive": {"name": "infonce"}}


def check(config: Config) -> None:
    """Refuse losses and augmentations that cannot be built or fed, before data or model are touched.

    Raises:
        ConfigError: an unknown part or option, or a loss that reads what this run does not have.
    """
    for key, spec in loss_specs(config).items():
        if not isinstance(spec, dict):
            raise ConfigError(f"losses.{key}: {spec!r} must be a mapping like {{name: infonce, weight: 1.0}}")
        if convert(spec.get("weight", 1.0), float, f"losses.{key}.weight") <= 0:
            raise ConfigError(f"losses.{key}.weight: {spec['weight']} must be more than 0; leave the loss out instead")
        _check_needs(spec, key, config)
    if config.data.augment:
        bind(AUGMENTATIONS, config.data.augment, "data.augment")


def check_splits(config: Config) -> None:
    """Refuse losses that do not say that the features of their batch may come from micro-batches.

    Raises:
        ConfigError: there is one.
    """
    option = "micro_batch_size" if config.train.micro_batch_size is not None else "text_micro_batch_size"
    for key, spec in loss_specs(config).items():
        part, _ = bind(LOSSES, _bare(spec), f"losses.{key}")
        if not getattr(part, "splits_batch", False):
            rule = "does not say that its batch may be split (splits_batch = True)"
            raise ConfigError(f"losses.{key}: {spec['name']} {rule}; say so, or unset train.{option}")


def _needs(spec: dict[str, Any], key: str) -> set[str]:
    """Return what a loss says that it reads beyond features, logit_scale and the ids that every batch has."""
    part, options = bind(LOSSES, _bare(spec), f"losses.{key}")
    said = getattr(part, "needs", None)
    return set() if said is None else set(said(options))


def _check_needs(spec: dict[str, Any], key: str, config: Config) -> None:
    needs, model = _needs(spec, key), config.model
    if "label_id" in needs and config.data.label_key is None:
        rule = "reads labels, which need data.label_key (cls, or json.FIELD of the samples)"
        raise ConfigError(f"losses.{key}: {spec['name']} {rule}; set it")
    if "logit_bias" in needs and (model.image or model.text) and model.init_logit_bias is None:
        raise ConfigError(_without_bias(spec, key))  # an open_clip model may bring its own: see ContrastiveTask
    if teachers := sorted(need for need in needs if need.startswith("teacher_")):
        rule = f"reads {teachers[0]}, and no run has a teacher"
        raise ConfigError(f"losses.{key}: {spec['name']} {rule}; take another loss")


def _without_bias(spec: dict[str, Any], key: str) -> str:
    rule = "reads a logit bias, and the model has none; set model.init_logit_bias (SigLIP: -10)"
    return f"losses.{key}: {spec['name']} {rule}"


def _bare(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "weight"}
