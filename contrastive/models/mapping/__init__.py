"""Models of open_clip and of transformers that are the same function, and their tensors under both names.

A kind is a module of this package, one for each class of transformers, which offers what `Kind` lists: `clip`
(CLIPModel), `siglip` (SiglipModel), `dual` (VisionTextDualEncoderModel). The names of our tensors and layers are those
of `module_of`: open_clip's own, or `DualEncoder`'s.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

import torch
import transformers
from torch import nn

from contrastive.errors import ConfigError, ModelError
from contrastive.modalities.text import TokenizerSpec
from contrastive.models import huggingface, quantization
from contrastive.models.build import Built, build
from contrastive.models.contrastive_model import OpenClipModel
from contrastive.models.mapping.inputs import to_preprocess, to_tokenizer
from contrastive.models.mapping.tensors import Pair, to_ours, to_theirs
from contrastive.settings import ModelConfig

Layers = dict[Literal["image", "text"], list[tuple[str, str]]]
KINDS = ("clip", "siglip", "dual")


class Kind(Protocol):
    """What the module of a kind offers.

    `CLASS`: the name of the class in transformers; `MODEL_TYPE`: the `model_type` of its configurations.
    """

    CLASS: str
    MODEL_TYPE: str

    def refusal(self, built: Built) -> str | None:
        """Return None where the class holds the model exactly, else the key of our description, its value and why.

        As in "model.model_cfg.vision_cfg.ls_init_value: 0.1: CLIPModel has no layer scale".
        """

    def config(self, built: Built) -> Any:
        """Return the configuration of transformers for a model that is not refused, every value written down."""

    def pairs(self, built: Built) -> Sequence[Pair]:
        """Return every tensor of `module_of(built)` and what it is in theirs."""

    def layers(self, built: Built) -> Layers:
        """Return by tower, in order of computation, the layers that give the same tensor: (ours, theirs)."""

    def model_config(self, config: Any, weights: Mapping[str, Any]) -> ModelConfig:
        """Return our `model` section for a configuration of transformers and the state dict of its model.

        It is without `preprocess` and without the tokenizer's name, which `from_transformers` adds.

        Raises:
            ModelError: naming the key of theirs that open_clip has no equal of.
        """


@dataclass(frozen=True)
class Converted:
    """A model as one of transformers, with its weights; `layers`: see `Kind.layers`."""

    model: Any
    layers: Layers


def module_of(built: Built) -> nn.Module:
    """Return the module whose names the mappings speak of: the open_clip model, or our two encoders."""
    return built.model.inner if isinstance(built.model, OpenClipModel) else built.model


def kind_of(built: Built) -> Kind:
    """Return the first kind that holds the model exactly.

    Raises:
        ModelError: none does; what stands in the way of the one that is nearest.
    """
    refusals = {}
    for name in KINDS:
        refusals[name] = _kind(name).refusal(built)
        if refusals[name] is None:
            return _kind(name)
    raise ModelError(str(refusals[_nearest(built)]))


def to_transformers(built: Built) -> Converted:
    """Return the model of transformers that computes the same, in evaluation mode.

    Raises:
        ModelError: there is none; see `kind_of`.
    """
    kind = kind_of(built)
    weights = {name: value.detach() for name, value in module_of(built).state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, kind.CLASS)(kind.config(built))
    model.load_state_dict(to_theirs(kind.pairs(built), weights), strict=True)
    return Converted(model.eval(), kind.layers(built))


def from_transformers(place: str) -> Built:
    """Return the model of a folder of transformers, or of a hub id, as the one of open_clip that computes the same.

    Raises:
        ModelError: there is none, or open_clip has no equal of it.
    """
    try:
        theirs, _, tokenizer, processor = huggingface.load(place)
    except ModelError as error:
        raise ModelError(f"hf:{error}") from error
    config, weights = theirs.inner.config, theirs.inner.state_dict()
    if getattr(config, quantization.KEY, None) is not None:
        raise ModelError(f"hf:{place}: {quantization.KEY}: int8 weights cannot be trained; give what they were made of")
    try:
        kind = _kind_for(config.model_type)
        preprocess = to_preprocess(processor)
        described = kind.model_config(config, weights)
        spec = to_tokenizer(tokenizer.inner, place, _context_length(described, tokenizer.context_length))
        values = {k: v for k, v in preprocess.to_dict().items() if k in ("mean", "std", "interpolation", "resize_mode")}
        built = build(_with_tokenizer(dataclasses.replace(described, preprocess=values), spec))
        if built.preprocess.size != preprocess.size:
            raise ModelError(
                f"its image processor gives {preprocess.size} pixels, its model takes {built.preprocess.size}"
            )
        module_of(built).load_state_dict(to_ours(kind.pairs(built), weights), strict=True)
    except (ModelError, ConfigError) as error:
        raise ModelError(f"hf:{place}: cannot be rebuilt as a model of open_clip: {error}") from error
    return built


def _kind(name: str) -> Kind:
    return import_module(f"{__name__}.{name}")


def _kind_for(model_type: str) -> Kind:
    known = {_kind(name).MODEL_TYPE: _kind(name) for name in KINDS}
    if model_type not in known:
        raise ModelError(f"model_type: {model_type!r}: only {', '.join(known)} can be; it can be evaluated as it is")
    return known[model_type]


def _nearest(built: Built) -> str:
    """Return the kind whose refusal says most: of its towers, not that they are of another family."""
    cfg = built.config.model_cfg
    if not cfg or cfg["text_cfg"].get("hf_model_name"):
        return "dual"
    if not cfg["vision_cfg"].get("timm_model_name"):
        return "clip"
    return "siglip" if cfg["text_cfg"].get("no_causal_mask") else "dual"


def _context_length(described: ModelConfig, allowed: int) -> int:
    text = described.model_cfg.get("text_cfg", {})
    return int(text.get("context_length") or described.tokenizer.get("context_length") or allowed)


def _with_tokenizer(described: ModelConfig, spec: TokenizerSpec) -> ModelConfig:
    """Return the section with its tokenizer: open_clip's descriptions keep it in `text_cfg`."""
    if not described.model_cfg:
        return dataclasses.replace(described, tokenizer=spec.to_dict())
    text = {**described.model_cfg["text_cfg"], "context_length": spec.context_length}
    if spec.name is not None:
        text.update(hf_tokenizer_name=spec.name, tokenizer_kwargs=dict(spec.options))
    return dataclasses.replace(described, model_cfg={**described.model_cfg, "text_cfg": text})
