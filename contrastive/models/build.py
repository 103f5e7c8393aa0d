"""From `model.*` to a model with its tokenizer and preprocessing, and to a description that rebuilds it anywhere."""

import copy
import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
from open_clip.factory import _get_hf_config, parse_model_name
from open_clip.model import CLIPTextCfg
from safetensors import SafetensorError
from transformers import dynamic_module_utils

from contrastive.errors import ConfigError, ModelError, why_unread
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.models.contrastive_model import ContrastiveModel, DualEncoder, OpenClipModel
from contrastive.registry import IMAGE_ENCODERS, TEXT_ENCODERS, bind, convert, suggest
from contrastive.settings import ModelConfig

# What reading a folder of weights fails with; of types and attributes where its description is another's.
UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError)
UNREADABLE += (AttributeError, AssertionError, SafetensorError, UnpicklingError)


@dataclass(frozen=True)
class Built:
    """A model with what turns images and captions into its inputs. `config` rebuilds it without hub or teacher."""

    model: ContrastiveModel
    preprocess: Preprocess
    tokenizer: Tokenizer
    config: ModelConfig


def check(config: ModelConfig) -> None:
    """Refuse a `model` section that cannot be built, before anything is downloaded or allocated.

    Raises:
        ConfigError: no or several kinds of model, an unknown open_clip name, part, option or key.
    """
    kinds = {
        "model.checkpoint": config.checkpoint,
        "model.name": config.name,
        "model.model_cfg": config.model_cfg,
        "model.image": config.image or config.text,
    }
    chosen = [key for key, value in kinds.items() if value]
    if len(chosen) != 1:
        rule = "give one of model.checkpoint, model.name, model.model_cfg, or both model.image and model.text"
        raise ConfigError(f"model: {rule}; {'none' if not chosen else ' and '.join(chosen)} is set")
    if config.pretrained and not config.name:
        raise ConfigError("model.pretrained: needs model.name, an open_clip model name")
    resolve_preprocess(config, {"size": config.image_size})
    if config.image or config.text:
        bind(IMAGE_ENCODERS, config.image, "model.image", image_size=config.image_size)
        bind(TEXT_ENCODERS, config.text, "model.text", vocab_size=1, context_length=1, pad_id=0)
        _tokenizer_spec(config)
    elif config.model_cfg:
        _check_model_cfg(config.model_cfg)
    elif config.name:
        check_name(config.name, "model.name")


def check_name(name: str, key: str) -> None:
    """Refuse, naming `key`, a name without hf-hub: or local-dir: that open_clip does not know.

    Raises:
        ConfigError: it does not.
    """
    if parse_model_name(name)[0] is None and open_clip.get_model_config(name) is None:
        close = suggest(name, open_clip.list_models()).split("; known")[0]
        raise ConfigError(f"{key}: open_clip has no model {name!r}{close}")


def build(config: ModelConfig) -> Built:
    """Return the model of a checked `model` section; weights are random unless it names pretrained ones.

    One that begins with a `checkpoint` is not built but opened: see `models.beginning`.

    Raises:
        ConfigError: a part refused its options.
        ModelError: pretrained weights, a hub model or a tokenizer cannot be had.
    """
    config = dataclasses.replace(config, teacher={})  # the model that is trained does not depend on it
    if config.name:
        return _open_clip_by_name(config)
    if config.model_cfg:
        inner = _create(config)
        text = config.model_cfg["text_cfg"]
        size = {"size": config.model_cfg["vision_cfg"].get("image_size", 224)}
        built = _open_clip(inner, config, _open_clip_tokenizer(text, None), size)
        _check_vocabulary(text, built.tokenizer.vocab_size)
        return built
    tokenizer = Tokenizer(_tokenizer_spec(config))
    given = {"vocab_size": tokenizer.vocab_size, "context_length": tokenizer.spec.context_length}
    model = DualEncoder(config, pad_id=tokenizer.pad_id, **given)
    return Built(model, resolve_preprocess(config, {"size": config.image_size}), tokenizer, config)


def _open_clip_by_name(config: ModelConfig) -> Built:
    name = str(config.name)
    schema, identifier = parse_model_name(name)
    try:
        with warnings.catch_warnings(record=True) as caught, _errors_only(), _no_questions():
            warnings.simplefilter("always")
            inner = open_clip.create_model(
                name,
                config.pretrained,
                require_pretrained=bool(schema or config.pretrained),  # else local-dir: is silently random
                pretrained_text=False,
                **_logits(config),
            )
        described = _described(schema, identifier)
    except UNREADABLE as error:
        raise ModelError(f"model.name: {name!r} cannot be loaded: {why_unread(error)}") from error
    if mismatch := [w for w in caught if "QuickGELU mismatch" in str(w.message)]:
        raise ModelError(f"model.name: {mismatch[0].message} Take the {identifier}-quickgelu model, or another tag.")
    tokenizer = _open_clip_tokenizer(described["text_cfg"], identifier if schema else None)
    return _open_clip(inner, dataclasses.replace(config, model_cfg=described), tokenizer, inner.visual.preprocess_cfg)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Hold back what open_clip tells the root logger, such as that a model without weights is random."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        root.setLevel(before)


@contextmanager
def _no_questions() -> Iterator[None]:
    """Have transformers refuse code that comes with a tower, where open_clip leaves it to ask on the terminal."""
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _described(schema: str | None, identifier: str) -> dict[str, Any]:
    if schema is None:
        return dict(open_clip.get_model_config(identifier))
    if schema == "local-dir":
        return dict(json.loads((Path(identifier) / "open_clip_config.json").read_text())["model_cfg"])
    return dict(_get_hf_config(identifier)["model_cfg"])


def _open_clip(inner: Any, config: ModelConfig, tokenizer: TokenizerSpec, preprocess: dict[str, Any]) -> Built:
    built_from = dataclasses.replace(config, name=None, pretrained=None)
    model = OpenClipModel(inner, int(config.model_cfg["embed_dim"]))
    return Built(model, resolve_preprocess(config, preprocess), Tokenizer(tokenizer), built_from)


def _create(config: ModelConfig) -> Any:
    cfg = copy.deepcopy(config.model_cfg)
    custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg["text_cfg"]
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with _no_questions():
            return (open_clip.CoCa if "multimodal_cfg" in cfg else kind)(**{**cfg, **_logits(config)})
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        raise ConfigError(f"model.model_cfg: open_clip refused it: {why_unread(error)}") from error


def _logits(config: ModelConfig) -> dict[str, Any]:
    """Return the constructor arguments of an open_clip model that concern the scale and bias of its logits."""
    given: dict[str, Any] = {"nonscalar_logit_scale": True}  # FSDP2 refuses parameters without a dimension
    if config.init_temperature is not None:
        given["init_logit_scale"] = math.log(1 / config.init_temperature)
    if config.init_logit_bias is not None:
        given["init_logit_bias"] = config.init_logit_bias
    return given


def _check_model_cfg(model_cfg: dict[str, Any]) -> None:
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_cfg]
    if missing:
        raise ConfigError(f"model.model_cfg.{missing[0]}: is missing; an open_clip model_cfg needs it")


def _check_vocabulary(text_cfg: dict[str, Any], tokens: int) -> None:
    vocab_size = text_cfg.get("vocab_size", CLIPTextCfg.vocab_size)
    if "hf_model_name" not in text_cfg and vocab_size < tokens:
        rule = f"is less than the {tokens} tokens of its tokenizer"
        raise ConfigError(f"model.model_cfg.text_cfg.vocab_size: {vocab_size} {rule}; give it room for all of them")


def _open_clip_tokenizer(text_cfg: dict[str, Any], folder_or_hub_id: str | None) -> TokenizerSpec:
    name = text_cfg.get("hf_tokenizer_name")
    options = dict(text_cfg.get("tokenizer_kwargs", {}))
    if name and folder_or_hub_id:
        name = folder_or_hub_id  # open_clip keeps the tokenizer's files beside such a model
    return TokenizerSpec(name or None, text_cfg.get("context_length", 77), options)


def _side(size: Any) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ModelError(f"model: its input is {height} x {width} pixels; only square inputs are supported")
    return int(height)


def _tokenizer_spec(config: ModelConfig) -> TokenizerSpec:
    known = {f.name: f.type for f in dataclasses.fields(TokenizerSpec)}
    for key, value in config.tokenizer.items():
        if key not in known:
            raise ConfigError(f"model.tokenizer.{key}: unknown key{suggest(key, known)}")
        convert(value, known[key], f"model.tokenizer.{key}")
    return TokenizerSpec(**config.tokenizer)


def resolve_preprocess(config: ModelConfig, base: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing of a model, `base`, as `model.preprocess` changes it.

    Raises:
        ConfigError: an unknown key, or a value of a wrong type.
    """
    known = {f.name: f.type for f in dataclasses.fields(Preprocess)}
    values = {key: value for key, value in base.items() if key in known}
    values["size"] = _side(values["size"])
    for key, value in config.preprocess.items():
        if key not in known:
            raise ConfigError(f"model.preprocess.{key}: unknown key{suggest(key, known)}")
        values[key] = value
    values = {key: convert(value, known[key], f"model.preprocess.{key}") for key, value in values.items()}
    return Preprocess(**values)
