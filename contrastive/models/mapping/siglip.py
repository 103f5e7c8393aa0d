"""transformers' SiglipModel: a ViT of timm that pools by attention, and a text transformer that reads both ways.

The tensors by name: https://github.com/huggingface/transformers/blob/main/src/transformers/models/siglip/
modeling_siglip.py and timm's `AttentionPoolLatent`. SigLIP 2's checkpoints of one resolution are of this class too;
its models of any shape (NaFlex, Siglip2Model) are not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from contrastive.errors import ModelError
from contrastive.models.build import Built
from contrastive.models.mapping.tensors import Pair
from contrastive.settings import ModelConfig

CLASS, MODEL_TYPE = "SiglipModel", "siglip"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda value: value * torch.sigmoid(1.702 * value),
}
# What CLIPTextCfg may say: the only value that the class computes, and why.
TEXT_RULES: dict[str, tuple[Any, str]] = {
    "hf_model_name": (None, "has its own text tower"),
    "no_causal_mask": (True, "reads its text in both directions"),
    "pool_type": ("last", "takes the last token"),
    "proj_type": ("linear", "projects texts by one linear layer"),
    "proj_bias": (True, "has a bias in the projection of texts"),
    "embed_cls": (False, "has no class token in its text"),
    "ls_init_value": (None, "has no layer scale"),
    "qk_norm": (False, "has no norm of queries and keys"),
    "scaled_cosine_attn": (False, "has no cosine attention"),
    "scale_heads": (False, "does not scale its heads"),
    "scale_attn_inner": (False, "has one norm before attention"),
    "scale_attn": (False, "has one norm before attention"),
    "scale_fc": (False, "has one norm before its MLP"),
}
VISION_RULES: dict[str, tuple[Any, str]] = {
    "timm_pool": ("map", "pools images by attention"),
    "timm_proj": ("none", "has no projection of images"),
}
BLOCK = {  # of timm and of open_clip: ours, theirs
    "image": {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"},
    "text": {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"},
}
MLP = {"image": ("mlp.fc1", "mlp.fc2"), "text": ("mlp.c_fc", "mlp.c_proj")}
FUSED = {"image": ("attn.qkv.weight", "attn.qkv.bias"), "text": ("attn.in_proj_weight", "attn.in_proj_bias")}


def refusal(built: Built) -> str | None:
    """Return None where the class holds the model exactly, else the key of our description, its value and why."""
    cfg = built.config.model_cfg
    if not cfg:
        return f"model.image.name: {built.config.image.get('name')!r}: {CLASS} has towers of its own"
    if "multimodal_cfg" in cfg:
        return f"model.model_cfg.multimodal_cfg: is set: {CLASS} writes no captions"
    vision = cfg["vision_cfg"]
    if not vision.get("timm_model_name"):
        return (
            f"model.model_cfg.vision_cfg.timm_model_name: is not set: {CLASS} is a ViT of timm with attention pooling"
        )
    text = {name: getattr(CLIPTextCfg(**cfg["text_cfg"]), name) for name in TEXT_RULES}
    rules = (("vision_cfg", VISION_RULES, vision), ("text_cfg", TEXT_RULES, text))
    for section, wanted, given in rules:
        for name, (value, why) in wanted.items():
            if given.get(name) != value:
                return f"model.model_cfg.{section}.{name}: {given.get(name)!r}: {CLASS} {why} ({value!r})"
    if built.model.logit_bias is None:
        return f"model.init_logit_bias: is not set: {CLASS} has a bias of its logits"
    return _odd_towers(built)


def config(built: Built) -> Any:
    """Return the SiglipConfig, every value written down."""
    from transformers import SiglipConfig

    inner: Any = built.model.inner
    return SiglipConfig(
        text_config=_text_config(_text(inner)) | {"pad_token_id": built.tokenizer.pad_id},
        vision_config=_vision_config(inner.visual.trunk) | {"vision_use_head": True},
    )


def pairs(built: Built) -> Sequence[Pair]:
    """Return every tensor of the open_clip model and what it is in theirs."""
    inner: Any = built.model.inner
    trunk, text, own = inner.visual.trunk, _text(inner), _prefix(inner)
    found = [Pair("logit_scale", "logit_scale"), Pair("logit_bias", "logit_bias")]
    found += _same("visual.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding")
    found += [Pair("visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight", "plane")]
    for number in range(len(trunk.blocks)):
        found += _block("image", f"visual.trunk.blocks.{number}.", f"vision_model.encoder.layers.{number}.")
    found += _same("visual.trunk.norm", "vision_model.post_layernorm")
    found += _head(trunk.num_features)
    found += [Pair(f"{own}token_embedding.weight", "text_model.embeddings.token_embedding.weight")]
    found += [Pair(f"{own}positional_embedding", "text_model.embeddings.position_embedding.weight")]
    for number in range(len(text.transformer.resblocks)):
        found += _block("text", f"{own}transformer.resblocks.{number}.", f"text_model.encoder.layers.{number}.")
    found += _same(f"{own}ln_final", "text_model.final_layer_norm")
    return [*found, *_same(f"{own}text_projection", "text_model.head")]


def layers(built: Built) -> dict[Any, list[tuple[str, str]]]:
    """Return by tower, in order of computation, the layers that give the same tensor: (ours, theirs)."""
    inner: Any = built.model.inner
    own, pool, head = _prefix(inner), "visual.trunk.attn_pool", "vision_model.head"
    image = [("visual.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding")]
    for number in range(len(inner.visual.trunk.blocks)):
        image += _inside("image", f"visual.trunk.blocks.{number}", f"vision_model.encoder.layers.{number}")
    image += [("visual.trunk.norm", "vision_model.post_layernorm"), (f"{pool}.proj", f"{head}.attention")]
    image += [(f"{pool}.norm", f"{head}.layernorm"), (f"{pool}.mlp", f"{head}.mlp"), (pool, head)]
    text = [(f"{own}token_embedding", "text_model.embeddings.token_embedding")]
    for number in range(len(_text(inner).transformer.resblocks)):
        text += _inside("text", f"{own}transformer.resblocks.{number}", f"text_model.encoder.layers.{number}")
    text += [(f"{own}ln_final", "text_model.final_layer_norm"), (f"{own}text_projection", "text_model.head")]
    return {"image": image, "text": text}


def model_config(config: Any, weights: Mapping[str, Tensor]) -> ModelConfig:
    """Return our `model` section for a SiglipConfig and the state dict of its model.

    Raises:
        ModelError: naming the key of theirs that open_clip has no equal of.
    """
    text, vision = config.text_config, config.vision_config
    tower = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "mlp_ratio": ratio(text.hidden_size, text.intermediate_size),
        **{name: value for name, (value, _) in TEXT_RULES.items() if value not in (None, False)},
        "norm_kwargs": {"eps": text.layer_norm_eps},
    }
    if text.hidden_act == "gelu_pytorch_tanh":
        tower["act_kwargs"] = {"approximate": "tanh"}
    elif text.hidden_act != "gelu":
        raise ModelError(f"text_config.hidden_act: {text.hidden_act!r}: open_clip's text tower knows no such function")
    for name, section in (("text_config", text), ("vision_config", vision)):
        if section.attention_dropout:
            raise ModelError(f"{name}.attention_dropout: {section.attention_dropout}: open_clip's towers have none")
    if not getattr(vision, "vision_use_head", True):  # older versions of transformers do not declare it
        raise ModelError("vision_config.vision_use_head: False: there is no pooled image to compare with texts")
    if text.projection_size != vision.hidden_size:
        rule = f"{text.projection_size}: texts and images ({vision.hidden_size}) share no space"
        raise ModelError(f"text_config.projection_size: {rule}")
    image = {"timm_model_name": _timm_name(vision), "timm_model_pretrained": False, "image_size": vision.image_size}
    image.update({name: value for name, (value, _) in VISION_RULES.items()})
    logits = {f"init_{name}": float(weights[name].item()) for name in ("logit_scale", "logit_bias")}
    whole = {"embed_dim": vision.hidden_size, "custom_text": True, "vision_cfg": image, "text_cfg": tower}
    return ModelConfig(model_cfg={**whole, **logits})


def activation(module: Callable[[Tensor], Tensor]) -> str | None:
    """Return transformers' name of an activation, found by its values; None where it has another one."""
    values = torch.linspace(-5, 5, 101, device="cpu")
    return next((name for name, known in ACTIVATIONS.items() if torch.equal(module(values), known(values))), None)


def ratio(width: int, hidden: int) -> float:
    """Return the number by which open_clip and timm multiply `width`, and cut, to get `hidden`."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else (hidden + 0.5) / width


def _odd_towers(built: Built) -> str | None:
    """Return what the modules have that no key of the description says outright."""
    inner: Any = built.model.inner
    trunk = inner.visual.trunk
    key = f"model.model_cfg.vision_cfg.timm_model_name: {built.config.model_cfg['vision_cfg']['timm_model_name']!r}"
    if not isinstance(trunk, VisionTransformer):
        return f"{key}: {CLASS} is a plain ViT, and this is a {type(trunk).__name__}"
    ours, known = set(inner.state_dict()), {name for pair in pairs(built) for name in pair.our_names}
    if ours != known:
        name = min(ours ^ known)
        tower = key if name.startswith("visual.") else "model.model_cfg.text_cfg"
        return f"{tower}: {f'{CLASS} has no {name}' if name in ours else f'it has no {name}, as {CLASS} has'}"
    text = _text(inner)
    towers = ((key, trunk, _vision_config(trunk)), ("model.model_cfg.text_cfg", text, _text_config(text)))
    for where, tower, found in towers:
        if found["hidden_act"] is None:
            return f"{where}: {CLASS} has no activation as this tower's"
        if len({module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)}) != 1:
            return f"{where}: its norms have several eps, and {CLASS} has one"
    pool, block = trunk.attn_pool, trunk.blocks[0]
    if (pool.num_heads, pool.mlp.fc1.out_features) != (block.attn.num_heads, block.mlp.fc1.out_features):
        return f"{key}: its pooling has other heads or another width than its blocks"
    return None


def _text(inner: Any) -> Any:
    return getattr(inner, "text", inner)  # CLIP is its own text tower


def _prefix(inner: Any) -> str:
    return "text." if hasattr(inner, "text") else ""


def _text_config(text: Any) -> dict[str, Any]:
    block = text.transformer.resblocks[0]
    return {
        "vocab_size": text.token_embedding.num_embeddings,
        "hidden_size": text.token_embedding.embedding_dim,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(text.transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "max_position_embeddings": len(text.positional_embedding),
        "hidden_act": activation(block.mlp.gelu),
        "layer_norm_eps": text.ln_final.eps,
        "attention_dropout": 0.0,
        "projection_size": text.text_projection.out_features,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _vision_config(trunk: Any) -> dict[str, Any]:
    block = trunk.blocks[0]
    return {
        "hidden_size": trunk.num_features,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "num_channels": trunk.patch_embed.proj.in_channels,
        "image_size": int(trunk.patch_embed.img_size[0]),
        "patch_size": int(trunk.patch_embed.proj.kernel_size[0]),
        "hidden_act": activation(block.mlp.act),
        "layer_norm_eps": trunk.norm.eps if isinstance(trunk.norm, nn.LayerNorm) else None,
        "attention_dropout": 0.0,
    }


def _timm_name(vision: Any) -> str:
    """Return timm's name of the ViT: open_clip takes one by its name, and cannot change it.

    Raises:
        ModelError: timm has none, or only one that differs in the key that is named.
    """
    near = ""
    for name in timm.list_models(f"vit_*_patch{vision.patch_size}_siglip_{vision.image_size}"):
        with torch.device("meta"):
            found = _vision_config(timm.create_model(name, num_classes=0, global_pool="map"))
        odd = [key for key, value in found.items() if value != getattr(vision, key)]
        if not odd:
            return str(name)
        if odd == ["hidden_act"]:
            rule = f"timm's {name} computes {found['hidden_act']}, so its embeddings would differ a little"
            near = f"vision_config.hidden_act: {vision.hidden_act!r}: {rule}; open_clip publishes SigLIP's weights"
            near += " for it under hf-hub:timm/ViT-…-SigLIP…"
    shape = f"{vision.hidden_size} wide, {vision.num_hidden_layers} deep, {vision.image_size} pixels"
    raise ModelError(
        near or f"vision_config: timm has no SigLIP tower of this shape ({shape}) that open_clip could name"
    )


def _same(ours: str, theirs: str) -> list[Pair]:
    return [Pair(f"{ours}.{name}", f"{theirs}.{name}") for name in ("weight", "bias")]


def _block(tower: str, ours: str, theirs: str) -> list[Pair]:
    names = {**BLOCK[tower], **dict(zip(MLP[tower], ("mlp.fc1", "mlp.fc2"), strict=True))}
    found = [pair for mine, other in names.items() for pair in _same(ours + mine, theirs + other)]
    for fused, kind in zip(FUSED[tower], ("weight", "bias"), strict=True):
        query, key, value = (f"{theirs}self_attn.{part}_proj.{kind}" for part in "qkv")
        found.append(Pair(ours + fused, (query, key, value), "thirds"))
    return found


def _head(width: int) -> list[Pair]:
    """Return the attention pooling: timm keeps the query apart from key and value, torch's attention all in one."""
    ours, theirs = "visual.trunk.attn_pool.", "vision_model.head."
    found = [Pair(f"{ours}latent", f"{theirs}probe")]
    for kind in ("weight", "bias"):
        parts = (f"{ours}q.{kind}", f"{ours}kv.{kind}")
        found.append(Pair(parts, f"{theirs}attention.in_proj_{kind}", "joined", (width, 2 * width)))
    names = {"proj": "attention.out_proj", "norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    return [*found, *(pair for mine, other in names.items() for pair in _same(ours + mine, theirs + other))]


def _inside(tower: str, ours: str, theirs: str) -> list[tuple[str, str]]:
    """Return the layers of a block in the order in which they are computed, and the block itself."""
    first, second = [name for name in BLOCK[tower] if "norm" in name or name.startswith("ln")]
    names = [(first, "layer_norm1"), ("attn", "self_attn"), (second, "layer_norm2"), (MLP[tower][0], "mlp.fc1")]
    inside = [(f"{ours}.{mine}", f"{theirs}.{other}") for mine, other in [*names, ("mlp", "mlp")]]
    return [*inside, (ours, theirs)]
