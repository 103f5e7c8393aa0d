"""Model and losses as one module, so that DDP, FSDP and compile see one forward."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contrastive.data.rows import Batch
from contrastive.errors import ConfigError
from contrastive.modalities.image import Preprocess
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.registry import AUGMENTATIONS, LOSSES, bind, build, convert
from contrastive.settings import Config

# What a constructor of a loss may ask for, while neither model nor teacher is there to say it.
PLACEHOLDERS = {"embed_dim": 1, "teacher_embed_dim": 1}


class Teacher(Protocol):
    """What a task asks of `contrastive.models.teacher`."""

    embed_dim: int

    def features(self, images: Iterable[Tensor], texts: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the features of a batch whose images, in 0..1, and token ids come in pieces."""


class ContrastiveTask(nn.Module):
    """A batch as the loader gives it to named scalar terms; `loss` is what is trained on.

    A teacher is no part of the module: nothing of it is trained, saved, clipped, sharded or sent between ranks, and
    whoever moves the module to a device moves the teacher too.

    Raises:
        ConfigError: a loss reads a logit bias and the model has none.
    """

    teacher: Teacher | None

    def __init__(
        self, model: ContrastiveModel, preprocess: Preprocess, config: Config, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        object.__setattr__(self, "teacher", teacher)  # past nn.Module, which would register it
        image, text = config.train.micro_batch_size, config.train.text_micro_batch_size
        self.pieces = {"image": image, "text": image if text is None else text}
        specs = loss_specs(config)
        for key, spec in specs.items():
            if model.logit_bias is None and "logit_bias" in _needs(spec, key):
                raise ConfigError(_without_bias(spec, key))
        self.weights = {key: float(spec.get("weight", 1.0)) for key, spec in specs.items()}
        given = {"embed_dim": model.embed_dim} | ({} if teacher is None else {"teacher_embed_dim": teacher.embed_dim})
        self.losses = nn.ModuleDict(
            {key: build(LOSSES, _bare(spec), f"losses.{key}", **given) for key, spec in specs.items()}
        )
        self.augment: nn.Module = nn.Identity()
        if config.data.augment:
            self.augment = build(AUGMENTATIONS, config.data.augment, "data.augment")

    def forward(self, batch: Batch, result: Literal["terms", "features"] = "terms") -> dict[str, Tensor]:
        """Return the terms of a whole batch (see `score`), or the features of what `batch` holds, image or text.

        The batch has image uint8 [b, 3, H, W], text int64 [b, L], and what the augmentation and the losses read.
        """
        device = next(iter(batch.values())).device
        view = self.augmented(batch) if "image" in batch else None
        # Before the model, whose graph takes memory.
        taught = self.taught(batch, view) if result == "terms" else {}
        with attention_kernel(device, self.training):
            image = None if view is None else self.preprocess.normalise(view)
            features: dict[str, Tensor] = self.model(image, batch.get("text"))
        if result == "features":
            return {name: value for name, value in features.items() if name.endswith("_features")}
        terms = self.score({**features, **taught}, batch)
        # DDP waits for every parameter's gradient, also where no loss reads a temperature or bias.
        unread = sum(parameter.sum() for parameter in self.model.logit_parameters().values())
        return {**terms, "loss": terms["loss"] + 0 * unread}

    def score(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum of all losses, and every loss's terms as `NAME/term`.

        `features` are those of the whole batch; the teacher's are added where they are not among them.
        """
        if "teacher_logit_scale" not in features:
            features = {**features, **self.taught(batch)}
        terms: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for key, loss in self.losses.items():
            own = loss(features, batch)
            total = total + self.weights[key] * own["loss"]
            terms.update({f"{key}/{name}": value for name, value in own.items()})
        return {"loss": total, **terms}  # type: ignore[dict-item]  # a sum over at least one loss is a tensor

    @torch.no_grad()
    def taught(self, batch: Batch, view: Tensor | None = None) -> dict[str, Tensor]:
        """Return the teacher's features of a batch, nothing without a teacher; `view` is the batch's, if it is known.

        They are computed in pieces of the micro-batches' sizes.
        """
        if self.teacher is None:
            return {}
        text = batch["teacher_text"] if "teacher_text" in batch else batch["text"]
        views = self._views(batch) if view is None else [view]
        return self.teacher.features(views, text.split(self.pieces["text"] or len(text)))

    def _views(self, batch: Batch) -> Iterator[Tensor]:
        held = [name for name in ("image", "seed") if name in batch]
        size = self.pieces["image"] or len(batch["image"])
        for parts in zip(*(batch[name].split(size) for name in held), strict=True):
            yield self.augmented(dict(zip(held, parts, strict=True)))

    def augmented(self, batch: Batch) -> Tensor:
        """Return what model and teacher see of the images, float32 [b, 3, H, W] in 0..1, changed by each row's seed."""
        image = batch["image"].float().div_(255)
        return image if isinstance(self.augment, nn.Identity) else self.augment(image, batch["seed"])


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
        build(LOSSES, _bare(spec), f"losses.{key}", **PLACEHOLDERS)  # its constructor knows the ranges
        _check_needs(spec, key, config)
    if config.model.teacher and not any(_of_teacher(_needs(spec, key)) for key, spec in loss_specs(config).items()):
        raise ConfigError("model.teacher: no loss learns from it; add {name: distillation}")
    if config.data.augment:
        bind(AUGMENTATIONS, config.data.augment, "data.augment")


def check_splits(config: Config) -> None:
    """Refuse losses that do not say that the features of their batch may come from micro-batches.

    Raises:
        ConfigError: there is one.
    """
    option = "micro_batch_size" if config.train.micro_batch_size is not None else "text_micro_batch_size"
    for key, spec in loss_specs(config).items():
        part, _ = bind(LOSSES, _bare(spec), f"losses.{key}", **PLACEHOLDERS)
        if not getattr(part, "splits_batch", False):
            rule = "does not say that its batch may be split (splits_batch = True)"
            raise ConfigError(f"losses.{key}: {spec['name']} {rule}; say so, or unset train.{option}")


def needs(config: Config) -> set[str]:
    """Return what the losses of a run read beyond features, logit_scale and the ids that every batch has."""
    return set().union(*(_needs(spec, key) for key, spec in loss_specs(config).items()))


def _needs(spec: dict[str, Any], key: str) -> set[str]:
    """Return what a loss says that it reads beyond features, logit_scale and the ids that every batch has."""
    part, options = bind(LOSSES, _bare(spec), f"losses.{key}", **PLACEHOLDERS)
    said = getattr(part, "needs", None)
    return set() if said is None else set(said({name: value for name, value in options.items() if name in spec}))


def _of_teacher(needs: set[str]) -> list[str]:
    return sorted(need for need in needs if need.startswith("teacher_"))


def _check_needs(spec: dict[str, Any], key: str, config: Config) -> None:
    needs, model = _needs(spec, key), config.model
    if "label_id" in needs and config.data.label_key is None:
        rule = "reads labels, which need data.label_key (cls, or json.FIELD of the samples)"
        raise ConfigError(f"losses.{key}: {spec['name']} {rule}; set it")
    if "logit_bias" in needs and (model.image or model.text) and model.init_logit_bias is None:
        raise ConfigError(_without_bias(spec, key))  # an open_clip model may bring its own: see ContrastiveTask
    if not model.teacher and (teachers := _of_teacher(needs)):
        raise ConfigError(f"losses.{key}: {spec['name']} reads {teachers[0]}; set model.teacher")


def _without_bias(spec: dict[str, Any], key: str) -> str:
    rule = "reads a logit bias, and the model has none; set model.init_logit_bias (SigLIP: -10)"
    return f"losses.{key}: {spec['name']} {rule}"


def _bare(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "weight"}
