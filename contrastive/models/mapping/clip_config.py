"""Configurations of open_clip's own transformers and of CLIPModel, there and back."""

from collections.abc import Mapping
from typing import Any

import transformers
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from contrastive.errors import ModelError
from contrastive.modalities.text import Tokenizer
from contrastive.models.build import Built
from contrastive.settings import ModelConfig

EPS = 1e-5  # of torch's LayerNorm
END, LARGEST = 49407, 2  # CLIPModel reads an eos_token_id of 2 as "where the largest id is", as open_clip's argmax does
ACTIVATIONS: dict[str, dict[str, Any]] = {"gelu": {}, "gelu_pytorch_tanh": {"approximate": "tanh"}, "quick_gelu": {}}


def inner(built: Built) -> Any:
    """Return the open_clip model."""
    return built.model.inner


def text_tower(built: Built) -> Any:
    """Return the open_clip module that holds the text transformer: CLIP is its own."""
    return getattr(inner(built), "text", inner(built))


def config(built: Built) -> Any:
    """Return the CLIPConfig of a model that is not refused, every value written down."""
    cfg = built.config.model_cfg
    vision, text, projection_dim = vision_config(built), text_config(built), int(cfg["embed_dim"])
    scale = float(built.model.logit_scale.item())
    return transformers.CLIPConfig(
        vision_config=vision, text_config=text, projection_dim=projection_dim, logit_scale_init_value=scale
    )


def vision_config(built: Built) -> dict[str, Any]:
    """Return the values of the CLIPVisionConfig."""
    cfg = built.config.model_cfg
    vision, blocks = CLIPVisionCfg(**cfg["vision_cfg"]), inner(built).visual.transformer.resblocks
    return {
        **_blocks(vision, blocks, cfg),
        "num_channels": 3,
        "image_size": built.preprocess.size,
        "patch_size": _side(vision.patch_size),
    }


def text_config(built: Built) -> dict[str, Any]:
    """Return the values of the CLIPTextConfig."""
    cfg = built.config.model_cfg
    tower = text_tower(built)
    text, tokenizer = CLIPTextCfg(**cfg["text_cfg"]), built.tokenizer
    is_bpe = _is_bpe(tokenizer)
    return {
        **_blocks(text, tower.transformer.resblocks, cfg),
        "vocab_size": tower.token_embedding.num_embeddings,
        "max_position_embeddings": len(tower.positional_embedding),
        "bos_token_id": END - 1 if is_bpe else None,
        "eos_token_id": text.eos_id if text.pool_type == "eos" else END if is_bpe else LARGEST,
        "pad_token_id": END if is_bpe else tokenizer.pad_id,
    }


def _blocks(cfg: Any, blocks: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
    first = blocks[0]
    return {
        "hidden_size": cfg.width,
        "intermediate_size": first.mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads,
        "hidden_act": _activation(cfg, whole),
        "layer_norm_eps": first.ln_1.eps,
        "attention_dropout": 0.0,
        "projection_dim": int(whole["embed_dim"]),
    }


def _activation(cfg: Any, whole: Mapping[str, Any]) -> str:
    if whole.get("quick_gelu"):
        return "quick_gelu"
    return "gelu_pytorch_tanh" if cfg.act_kwargs else "gelu"


def _is_bpe(tokenizer: Tokenizer) -> bool:
    return tokenizer.spec.name is None and not tokenizer.spec.options


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])


def model_config(config: Any, weights: Mapping[str, Any]) -> ModelConfig:  # noqa: ARG001  (the config says it all)
    """Return our `model` section for a CLIPConfig.

    Raises:
        ModelError: naming the key of theirs that open_clip has no equal of.
    """
    vision, text = config.vision_config, config.text_config
    quick = {name: part.hidden_act == "quick_gelu" for name, part in (("vision", vision), ("text", text))}
    if len(set(quick.values())) > 1:
        raise ModelError(
            f"text_config.hidden_act: {text.hidden_act!r} beside {vision.hidden_act!r} of vision_config: open_clip has "
            "quick_gelu in both towers or in none"
        )
    if vision.num_channels != 3:
        raise ModelError(f"vision_config.num_channels: {vision.num_channels}: open_clip takes images of 3 channels")
    cfg = {
        "embed_dim": int(config.projection_dim),
        "vision_cfg": vision_cfg(vision),
        "text_cfg": text_cfg(text),
        **({"quick_gelu": True} if quick["vision"] else {}),
    }
    return ModelConfig(model_cfg=cfg)


def vision_cfg(theirs: Any) -> dict[str, Any]:
    """Return open_clip's `vision_cfg` of a CLIPVisionConfig.

    Raises:
        ModelError: see `model_config`.
    """
    sides = {}
    for key in ("image_size", "patch_size"):
        value = getattr(theirs, key)
        sides[key] = value if isinstance(value, int) else value[0]
        if not isinstance(value, int) and len(set(value)) != 1:
            raise ModelError(f"vision_config.{key}: {list(value)}: only squares are supported")
    head_width = theirs.hidden_size // theirs.num_attention_heads
    return {**_blocks_cfg(theirs, "vision_config"), **sides, "head_width": head_width}


def text_cfg(theirs: Any) -> dict[str, Any]:
    """Return open_clip's `text_cfg` of a CLIPTextConfig, without its tokenizer.

    Raises:
        ModelError: see `model_config`.
    """
    end = theirs.eos_token_id
    if not isinstance(end, int):
        raise ModelError(f"text_config.eos_token_id: {end}: open_clip pools at one id")
    largest = end in (LARGEST, theirs.vocab_size - 1)  # no id is larger than the last one
    return {
        **_blocks_cfg(theirs, "text_config"),
        "heads": theirs.num_attention_heads,
        "context_length": theirs.max_position_embeddings,
        "vocab_size": theirs.vocab_size,
        **({} if largest else {"pool_type": "eos", "eos_id": end}),
    }


def _blocks_cfg(theirs: Any, part: str) -> dict[str, Any]:
    if theirs.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ModelError(f"{part}.hidden_act: {theirs.hidden_act!r}: open_clip's towers have one of {known}")
    kwargs, eps = ACTIVATIONS[theirs.hidden_act], theirs.layer_norm_eps
    return {
        "width": theirs.hidden_size,
        "layers": theirs.num_hidden_layers,
        "mlp_ratio": _ratio(theirs.hidden_size, theirs.intermediate_size),
        **({"act_kwargs": dict(kwargs)} if kwargs else {}),
        **({"norm_kwargs": {"eps": eps}} if eps != EPS else {}),
    }


def _ratio(width: int, inner: int) -> float:
    """Return a ratio of which open_clip, which rounds down, makes exactly `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width
