"""transformers' VisionTextDualEncoderModel: a tower of timm or CLIP's ViT, and CLIP's text tower or any of its own.

It takes what each tower calls its pooled output and projects it linearly, without a bias:
https://github.com/huggingface/transformers/blob/main/src/transformers/models/vision_text_dual_encoder/
modeling_vision_text_dual_encoder.py. Towers of timm are behind its TimmWrapperModel, which needs timm to load.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from contrastive.encoders.huggingface import HuggingFaceText
from contrastive.encoders.timm import TimmImage
from contrastive.errors import ModelError
from contrastive.models.build import Built
from contrastive.models.mapping import clip, clip_config
from contrastive.models.mapping.tensors import Pair
from contrastive.models.mapping.towers import image_part, text_part, timm_args
from contrastive.settings import ModelConfig

CLASS, MODEL_TYPE = "VisionTextDualEncoderModel", "vision-text-dual-encoder"
SAMPLES = ["a", "a photo of a cat", "two dogs play in the snow"]  # captions of several lengths
POOLED = "reads the pooled output of its text tower"


def refusal(built: Built) -> str | None:
    """Return None where the class holds the model exactly, else the key of our description, its value and why."""
    if built.model.logit_bias is not None:
        return f"model.init_logit_bias: {built.model.logit_bias.item():.4g}: {CLASS} has no bias of its logits"
    return image_refusal(built) or text_refusal(built)


def image_refusal(built: Built) -> str | None:
    """Return what of the image tower stands in the way, as `refusal` does."""
    cfg = built.config.model_cfg
    if not cfg:
        return _image_encoder_refusal(built)
    if "multimodal_cfg" in cfg:
        return f"model.model_cfg.multimodal_cfg: is set: {CLASS} writes no captions"
    vision = CLIPVisionCfg(**cfg["vision_cfg"])
    return _timm_refusal(built, vision) if vision.timm_model_name else clip.vision_refusal(cfg)


def text_refusal(built: Built) -> str | None:
    """Return what of the text tower stands in the way, as `refusal` does."""
    cfg = built.config.model_cfg
    if not cfg:
        return _text_encoder_refusal(built)
    text = CLIPTextCfg(**cfg["text_cfg"])
    return _hf_refusal(built, text) if text.hf_model_name else clip.text_refusal(cfg, CLASS)


def config(built: Built) -> Any:
    """Return the VisionTextDualEncoderConfig."""
    from transformers import VisionTextDualEncoderConfig

    return VisionTextDualEncoderConfig(
        vision_config=dict(image_part(built).config()),
        text_config=dict(text_part(built).config()),
        projection_dim=built.model.embed_dim,
        logit_scale_init_value=float(built.model.logit_scale.item()),
    )


def pairs(built: Built) -> Sequence[Pair]:
    """Return every tensor of the model and what it is in theirs."""
    return [Pair("logit_scale", "logit_scale", "number"), *image_part(built).pairs, *text_part(built).pairs]


def layers(built: Built) -> dict[Any, list[tuple[str, str]]]:
    """Return by tower, in order of computation, the layers that give the same tensor: (ours, theirs)."""
    return {"image": list(image_part(built).layers), "text": list(text_part(built).layers)}


def model_config(config: Any, weights: Mapping[str, Tensor]) -> ModelConfig:
    """Return our `model` section for a configuration of theirs and the state dict of its model.

    Raises:
        ModelError: naming the key of theirs that open_clip has no equal of.
    """
    text, vision = config.text_config, config.vision_config
    if text.model_type != "clip_text_model":
        rule = "open_clip builds such a tower from a folder of its own only; evaluation reads this one as it is"
        raise ModelError(f"text_config.model_type: {text.model_type!r}: {rule}")
    text_cfg = clip_config.text_cfg(text)
    quick = text.hidden_act == "quick_gelu"
    if vision.model_type == "clip_vision_model":
        vision_cfg = clip_config.vision_cfg(vision)
        if quick != (vision.hidden_act == "quick_gelu"):
            rule = f"{text.hidden_act!r}: open_clip has quick_gelu in both towers or in none"
            raise ModelError(f"text_config.hidden_act: {rule}")
    else:
        vision_cfg = _vision_cfg(vision, weights)
    cfg = {"embed_dim": config.projection_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    return ModelConfig(model_cfg=cfg | ({"quick_gelu": True} if quick else {}))


def _vision_cfg(vision: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    if vision.model_type != "timm_wrapper":
        rule = "open_clip has no such tower, only its own and those of timm"
        raise ModelError(f"vision_config.model_type: {vision.model_type!r}: {rule}")
    given = dict(vision.model_args or {})
    given.pop("fc_norm", None)  # open_clip keeps the norm where timm has it, and the tensors' names tell
    pool = given.pop("global_pool", "")
    if given:
        name = min(given)
        raise ModelError(f"vision_config.model_args.{name}: {given[name]!r}: open_clip cannot tell timm so")
    timm_size = timm.get_pretrained_cfg(vision.architecture).input_size[-1]
    projection = weights["visual_projection.weight"]
    is_none = bool(pool) and _is_identity(projection)
    return {
        "timm_model_name": vision.architecture,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "none" if is_none else "linear",
        "image_size": int(getattr(vision, "image_size", None) or timm_size),
    }


def _is_identity(projection: Tensor) -> bool:
    return projection.shape[0] == projection.shape[1] and torch.equal(projection, torch.eye(len(projection)))


def _timm_refusal(built: Built, vision: CLIPVisionCfg) -> str | None:
    key = "model.model_cfg.vision_cfg"
    if vision.timm_proj not in ("linear", "none"):
        return f"{key}.timm_proj: {vision.timm_proj!r}: {CLASS} projects by one linear layer or none"
    if vision.timm_proj == "linear" and vision.timm_proj_bias:
        return f"{key}.timm_proj_bias: True: {CLASS} projects without a bias"
    if vision.timm_pool in ("abs_attn", "rot_attn") or (vision.timm_proj == "none" and not vision.timm_pool):
        return f"{key}.timm_pool: {vision.timm_pool!r}: {CLASS} pools as timm's own model does"
    model: Any = built.model
    width = model.inner.visual.trunk.num_features
    if vision.timm_proj == "none" and width != model.embed_dim:
        return f"{key}.timm_proj: 'none': the tower is {width} wide, and the shared space {model.embed_dim}"
    return _trunk_refusal(built, f"{key}.timm_model_name: {vision.timm_model_name!r}", str(vision.timm_model_name))


def _image_encoder_refusal(built: Built) -> str | None:
    name = built.config.image.get("name")
    if not isinstance(built.model.image, TimmImage):
        return f"model.image.name: {name!r}: {CLASS} holds towers of timm, no others of ours"
    return _trunk_refusal(built, f"model.image.model: {built.config.image['model']!r}", built.config.image["model"])


def _trunk_refusal(built: Built, key: str, name: str) -> str | None:
    if ":" in name:
        return f"{key}: {CLASS} builds a tower by its name in timm, not from another folder"
    if timm_args(built) is None:
        return f"{key}: timm builds another model of that name than open_clip does"
    return None


def _hf_refusal(built: Built, text: CLIPTextCfg) -> str | None:
    model: Any = built.model
    key, tower = "model.model_cfg.text_cfg", model.inner.text
    if isinstance(tower.proj, nn.Sequential):
        return f"{key}.hf_proj_type: {text.hf_proj_type!r}: {CLASS} projects by one linear layer or none"
    return _pooling_refusal(built, f"{key}.hf_pooler_type: {text.hf_pooler_type!r}", tower.transformer)


def _text_encoder_refusal(built: Built) -> str | None:
    model: Any = built.model
    if not isinstance(model.text, HuggingFaceText):
        name = built.config.text.get("name")
        return f"model.text.name: {name!r}: {CLASS} holds towers of transformers, no others of ours"
    pooling = built.config.text.get("pooling", "mean")
    return _pooling_refusal(built, f"model.text.pooling: {pooling!r}", model.text.trunk)


def _pooling_refusal(built: Built, key: str, trunk: Any) -> str | None:
    """Return None where a text tower's own pooled output is what our model projects."""
    ids = built.tokenizer(SAMPLES)
    kept: list[Tensor] = []
    model: Any = built.model
    projection = model.inner.text.proj if built.config.model_cfg else model.text_projection
    hook = projection.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    try:
        with torch.inference_mode():
            model.encode_text(ids)
            theirs = getattr(trunk(input_ids=ids, attention_mask=_mask(built, ids)), "pooler_output", None)
    finally:
        hook.remove()
    if theirs is not None and theirs.shape == kept[0].shape and torch.allclose(theirs, kept[0], atol=1e-6):
        return None
    return f"{key}: {CLASS} {POOLED}, and that of {type(trunk).__name__} is {'none' if theirs is None else 'another'}"


def _mask(built: Built, ids: Tensor) -> Tensor:
    model: Any = built.model
    pad: int = model.inner.text.config.pad_token_id if built.config.model_cfg else model.text.pad_id
    return (ids != pad).long()
