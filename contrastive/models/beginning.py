"""A model that is trained further: any that `models.forms` knows, with the run's own pixels, temperature and bias."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from contrastive.errors import ConfigError, ModelError
from contrastive.models.build import Built, resolve_preprocess
from contrastive.models.checkpoint import Weights
from contrastive.models.contrastive_model import ContrastiveModel, OpenClipModel
from contrastive.models.forms import open_built
from contrastive.registry import convert, suggest
from contrastive.settings import ModelConfig


@dataclass(frozen=True)
class Origin:
    """What `model.checkpoint` names: a form of `models.forms`, and which of a run's weights."""

    form: str
    weights: Weights = "trained"

    def __str__(self) -> str:
        return self.form if self.weights == "trained" else f"{self.form} ({self.weights})"


def check(config: ModelConfig) -> None:
    """Refuse a `model.checkpoint` that names nothing, or settings that it decides itself; nothing is opened.

    Raises:
        ConfigError: it is no text, nor {form, weights}; or there is a model.tokenizer.
    """
    if not config.checkpoint:
        return
    origin(config)
    if config.tokenizer:
        raise ConfigError("model.tokenizer: a model.checkpoint brings its own; remove it, or set model.tokenizer=null")


def origin(config: ModelConfig) -> Origin:
    """Return what a set `model.checkpoint` names.

    Raises:
        ConfigError: see `check`.
    """
    given, key = config.checkpoint, "model.checkpoint"
    if isinstance(given, str):
        return Origin(given)
    if not isinstance(given, Mapping) or "form" not in given:
        raise ConfigError(f"{key}: {given!r} must be a text, or a mapping like {{form: RUN, weights: ema}}")
    known = {field.name: field.type for field in dataclasses.fields(Origin)}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key{suggest(str(name), known)}")
        convert(value, known[name], f"{key}.{name}")
    return Origin(**given)


def begin(config: ModelConfig) -> Built:
    """Return the model that a checked `model.checkpoint` names; torch's random state is kept.

    `model.preprocess` changes its preprocessing, `init_temperature` sets its temperature, and `init_logit_bias` its
    bias, which is added where it has none. Its description rebuilds it without what it came from.

    Raises:
        ModelError: there is no such model, it is damaged, or has no such weights.
    """
    named = origin(config)
    try:
        built, _ = open_built(named.form, named.weights)
    except ModelError as error:
        raise ModelError(f"model.checkpoint: {error}") from error
    logits = {"init_temperature": config.init_temperature, "init_logit_bias": config.init_logit_bias}
    given: dict[str, Any] = {name: value for name, value in logits.items() if value is not None}
    _set_logits(built.model, **given)
    preprocess = resolve_preprocess(config, built.preprocess.to_dict())
    changed = {**built.config.preprocess, **config.preprocess}
    described = dataclasses.replace(built.config, checkpoint=None, preprocess=changed, **given)
    return Built(built.model, preprocess, built.tokenizer, described)


def _set_logits(
    model: ContrastiveModel, init_temperature: float | None = None, init_logit_bias: float | None = None
) -> None:
    owner: Any = model.inner if isinstance(model, OpenClipModel) else model
    with torch.no_grad():
        if init_temperature is not None:
            model.logit_scale.fill_(math.log(1 / init_temperature))
        if init_logit_bias is not None:
            if model.logit_bias is None:
                owner.logit_bias = nn.Parameter(torch.empty_like(model.logit_scale))
            owner.logit_bias.fill_(init_logit_bias)
