"""open_clip's own vision transformer and text transformer, and transformers' CLIPModel.

Both are Radford et al. 2021, https://arxiv.org/abs/2103.00020: open_clip's `VisionTransformer` and `TextTransformer`,
https://github.com/huggingface/transformers/blob/main/src/transformers/models/clip/modeling_clip.py.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from contrastive.models.build import Built
from contrastive.models.mapping.clip_config import ACTIVATIONS, LARGEST, config, inner, model_config, text_tower
from contrastive.models.mapping.tensors import Pair

__all__ = ["CLASS", "MODEL_TYPE", "config", "layers", "model_config", "pairs", "refusal"]
CLASS, MODEL_TYPE = "CLIPModel", "clip"
# Keys of our description that CLIPModel has an equal of, or that change nothing here: they concern training, parts that
# another key switches on, or the way to the token ids.
TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "nonscalar_logit_scale"}
HELD = {
    *("layers", "width", "mlp_ratio", "norm_kwargs", "act_kwargs", "final_ln_after_pool"),
    *("head_width", "patch_size", "image_size", "patch_dropout", "pos_embed_type"),
    *("attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    *("heads", "context_length", "vocab_size", "pad_id", "eos_id"),
    *("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
}
ALLOWED: dict[str, tuple[Any, ...]] = {"block_type": (None, "default")}
REASONS = {
    "ls_init_value": "has no layer scale",
    "attentional_pool": "has no attentional pooling",
    "no_ln_pre": "always normalises before its first block",
    "block_type": "has only one kind of block",
    "qk_norm": "does not normalise queries and keys",
    "timm_model_name": "has its own vision transformer",
    "hf_model_name": "has its own text transformer",
    "embed_cls": "has no class token in its text tower",
    "no_causal_mask": "has a causal text tower",
    "proj_bias": "projects without a bias",
    "proj_type": "always projects its text",
    "pool_type": "pools images at the class token and texts at the end token",
    "multimodal_cfg": "has no decoder",
}


def refusal(built: Built) -> str | None:
    """Return None where CLIPModel holds the model exactly, else the key of our description, its value and why."""
    cfg = built.config.model_cfg
    if not cfg:
        return f"model.image.name: {built.config.image.get('name')!r}: {CLASS} has its own towers"
    if built.model.logit_bias is not None:
        return f"model.init_logit_bias: {built.model.logit_bias.item():.4g}: {CLASS} has no bias on its logits"
    for key, value in cfg.items():
        if key not in TOP and key != "init_logit_bias" and value:
            return f"model.model_cfg.{key}: {value!r}: {CLASS} {REASONS.get(key, 'has nothing like it')}"
    return vision_refusal(cfg) or text_refusal(cfg, CLASS)


def vision_refusal(cfg: Mapping[str, Any]) -> str | None:
    """Return what of `vision_cfg` is not CLIP's vision transformer, as `refusal` does."""
    vision = cfg["vision_cfg"]
    if vision.get("timm_model_name"):
        return _said("vision_cfg", "timm_model_name", vision["timm_model_name"], CLASS)
    if isinstance(vision.get("layers"), (list, tuple)):
        return f"model.model_cfg.vision_cfg.layers: {vision['layers']}: {CLASS} has no ResNet"
    patch = vision.get("patch_size")
    if isinstance(patch, (list, tuple)) and len(set(patch)) != 1:
        return f"model.model_cfg.vision_cfg.patch_size: {patch}: {CLASS} has square patches"
    return _foreign("vision_cfg", CLIPVisionCfg, vision, {"pool_type": ("tok",)}, CLASS)


def text_refusal(cfg: Mapping[str, Any], holder: str) -> str | None:
    """Return what of `text_cfg` is not CLIP's text transformer, as `refusal` does, in the name of class `holder`."""
    text = cfg["text_cfg"]
    if text.get("pool_type") == "eos" and text.get("eos_id", CLIPTextCfg.eos_id) == LARGEST:
        return f"model.model_cfg.text_cfg.eos_id: {LARGEST}: {holder} takes it for the largest id"
    return _foreign("text_cfg", CLIPTextCfg, text, {"pool_type": ("argmax", "eos")}, holder)


def _foreign(
    part: str, schema: Any, cfg: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], holder: str
) -> str | None:
    """Return the first key with a value that the class has no equal of; a key that is new in open_clip is one."""
    defaults = {field.name: field.default for field in fields(schema)}
    for key, value in cfg.items():
        fitting = {**ALLOWED, **allowed}.get(key, (defaults.get(key),))
        if key not in HELD and value not in fitting:
            return _said(part, key, value, holder)
        if key == "norm_kwargs" and set(value or {}) - {"eps"}:
            return _said(part, key, value, holder)
        if key == "act_kwargs" and (value or {}) not in ACTIVATIONS.values():
            return _said(part, key, value, holder)
    return None


def _said(part: str, key: str, value: Any, holder: str) -> str:
    return f"model.model_cfg.{part}.{key}: {value!r}: {holder} {REASONS.get(key, 'has nothing like it')}"


def pairs(built: Built) -> list[Pair]:
    """Return every tensor of the open_clip model and what it is in CLIPModel."""
    return [Pair("logit_scale", "logit_scale", "number"), *vision_pairs(built), *text_pairs(built)]


def vision_pairs(built: Built, theirs: str = "vision_model.") -> list[Pair]:
    """Return the tensors of open_clip's vision transformer, with `theirs` before the names of CLIPVisionModel."""
    found = [
        Pair("visual.class_embedding", f"{theirs}embeddings.class_embedding"),
        Pair("visual.positional_embedding", f"{theirs}embeddings.position_embedding.weight"),
        Pair("visual.conv1.weight", f"{theirs}embeddings.patch_embedding.weight"),
        *_affine("visual.ln_pre", f"{theirs}pre_layrnorm"),
        *_affine("visual.ln_post", f"{theirs}post_layernorm"),
        Pair("visual.proj", "visual_projection.weight", "transposed"),
    ]
    blocks = len(inner(built).visual.transformer.resblocks)
    return found + _block_pairs("visual.transformer", f"{theirs}encoder", blocks)


def text_pairs(built: Built, theirs: str = "text_model.") -> list[Pair]:
    """Return the tensors of open_clip's text transformer, with `theirs` before the names of CLIPTextModel."""
    ours = _text_prefix(built)
    found = [
        Pair(f"{ours}token_embedding.weight", f"{theirs}embeddings.token_embedding.weight"),
        Pair(f"{ours}positional_embedding", f"{theirs}embeddings.position_embedding.weight"),
        *_affine(f"{ours}ln_final", f"{theirs}final_layer_norm"),
        Pair(f"{ours}text_projection", "text_projection.weight", "transposed"),
    ]
    blocks = len(text_tower(built).transformer.resblocks)
    return found + _block_pairs(f"{ours}transformer", f"{theirs}encoder", blocks)


def _text_prefix(built: Built) -> str:
    return "text." if hasattr(inner(built), "text") else ""


def _affine(ours: str, theirs: str) -> list[Pair]:
    return [Pair(f"{ours}.{name}", f"{theirs}.{name}") for name in ("weight", "bias")]


def _block_pairs(ours: str, theirs: str, blocks: int) -> list[Pair]:
    found = []
    for number in range(blocks):
        own, other = f"{ours}.resblocks.{number}", f"{theirs}.layers.{number}"
        for name in ("weight", "bias"):
            fused = tuple(f"{other}.self_attn.{part}_proj.{name}" for part in "qkv")
            found.append(Pair(f"{own}.attn.in_proj_{name}", (fused[0], fused[1], fused[2]), "thirds"))
        for mine, yours in LAYERS.items():
            found += [] if mine in ("attn", "mlp.gelu") else _affine(f"{own}.{mine}", f"{other}.{yours}")
        found += _affine(f"{own}.attn.out_proj", f"{other}.self_attn.out_proj")
    return found


# Of a block, in order of computation.
LAYERS = {
    "ln_1": "layer_norm1",
    "attn": "self_attn",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.gelu": "mlp.activation_fn",
    "mlp.c_proj": "mlp.fc2",
}


def layers(built: Built) -> dict[Any, list[tuple[str, str]]]:
    """Return by tower, in order of computation, the layers that give the same tensor: (ours, theirs)."""
    image = [
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        *_block_layers("visual.transformer", "vision_model.encoder", len(inner(built).visual.transformer.resblocks)),
        ("visual", "visual_projection"),
    ]
    return {"image": image, "text": text_layers(built)}


def text_layers(built: Built, theirs: str = "text_model.") -> list[tuple[str, str]]:
    """Return the layers of the text tower, with `theirs` before the names of CLIPTextModel."""
    ours, blocks = _text_prefix(built), len(text_tower(built).transformer.resblocks)
    return [
        (f"{ours}token_embedding", f"{theirs}embeddings.token_embedding"),
        *_block_layers(f"{ours}transformer", f"{theirs}encoder", blocks),
        (f"{ours}ln_final", f"{theirs}final_layer_norm"),
        *([("text", "text_projection")] if ours else []),
    ]


def _block_layers(ours: str, theirs: str, blocks: int) -> list[tuple[str, str]]:
    found = []
    for number in range(blocks):
        own, other = f"{ours}.resblocks.{number}", f"{theirs}.layers.{number}"
        found += [(f"{own}.{mine}", f"{other}.{yours}") for mine, yours in LAYERS.items()]
        found.append((own, other))
    return found
