"""One tower of ours as one of transformers: what VisionTextDualEncoderModel and sentence-transformers put together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from open_clip.model import CLIPVisionCfg
from torch import nn

from contrastive.models.build import Built
from contrastive.models.mapping import clip, clip_config
from contrastive.models.mapping.tensors import Pair

IMAGE, TEXT = ("visual_projection", "vision_model"), ("text_projection", "text_model")


@dataclass(frozen=True)
class Part:
    """A tower of ours in transformers: its tensors, layers that give the same tensor, and what makes its configuration.

    Names of theirs begin with `vision_model.` or `text_model.`, but for those of the projection.
    """

    config: Callable[[], Mapping[str, Any]]  # timm's towers are built for it, without memory, which takes its time
    pairs: Sequence[Pair]
    layers: Sequence[tuple[str, str]] = field(default_factory=tuple)


def image_part(built: Built) -> Part:
    """Return the image tower of a model whose image tower `dual` does not refuse."""
    model: Any = built.model
    if not built.config.model_cfg:
        projection = _projection(IMAGE[0], "image_projection.weight", model.image.width, model.embed_dim)
        return _timm(built, model.image.trunk, "image.trunk", projection)
    visual = model.inner.visual
    if built.config.model_cfg["vision_cfg"].get("timm_model_name"):
        ours = "visual.head.proj.weight" if hasattr(visual.head, "proj") else None
        projection = _projection(IMAGE[0], ours, visual.trunk.num_features, model.embed_dim)
        return _timm(built, visual.trunk, "visual.trunk", projection)
    prefix = f"{IMAGE[1]}.{_nested('CLIPVisionModel', 'CLIPVisionConfig', 'vision_model')}"
    return Part(
        lambda: {"model_type": "clip_vision_model", **clip_config.vision_config(built)},
        clip.vision_pairs(built, prefix),
        _vision_layers(len(visual.transformer.resblocks), prefix),
    )


def _vision_layers(blocks: int, theirs: str) -> list[tuple[str, str]]:
    found = [("visual.conv1", f"{theirs}embeddings.patch_embedding"), ("visual.ln_pre", f"{theirs}pre_layrnorm")]
    for number in range(blocks):
        own, other = f"visual.transformer.resblocks.{number}", f"{theirs}encoder.layers.{number}"
        found += [(f"{own}.{mine}", f"{other}.{yours}") for mine, yours in clip.LAYERS.items()]
    return [*found, ("visual", IMAGE[0])]


def text_part(built: Built) -> Part:
    """Return the text tower of a model, CLIP's own or one of transformers."""
    model: Any = built.model
    if not built.config.model_cfg:
        projection = _projection(TEXT[0], "text_projection.weight", model.text.width, model.embed_dim)
        return _own(model.text.trunk, "text.trunk", projection)
    if built.config.model_cfg["text_cfg"].get("hf_model_name"):
        tower = model.inner.text
        ours = None if isinstance(tower.proj, nn.Identity) else "text.proj.weight"
        projection = _projection(TEXT[0], ours, tower.config.hidden_size, model.embed_dim)
        return _own(tower.transformer, "text.transformer", projection)
    prefix = f"{TEXT[1]}.{_nested('CLIPTextModel', 'CLIPTextConfig', 'text_model')}"
    return Part(
        lambda: {"model_type": "clip_text_model", **clip_config.text_config(built)},
        clip.text_pairs(built, prefix),
        clip.text_layers(built, prefix),
    )


def _projection(theirs: str, ours: str | None, width: int, embed_dim: int) -> Pair:
    if ours is None:
        return Pair((), f"{theirs}.weight", "identity", (embed_dim, width))
    return Pair(ours, f"{theirs}.weight")


def _timm(built: Built, trunk: Any, ours: str, projection: Pair) -> Part:
    theirs = f"{IMAGE[1]}.timm_model"

    def config() -> dict[str, Any]:
        return {
            "model_type": "timm_wrapper",
            "architecture": trunk.pretrained_cfg["architecture"],
            "model_args": dict(timm_args(built) or {}),
            # TimmWrapperConfig has neither: the class asks for the first, and who reads the folder may for the second.
            "hidden_size": int(trunk.num_features),
            "image_size": built.preprocess.size,
            "do_pooling": True,
        }

    return Part(config, [projection, *_same(trunk, ours, theirs)], _same_layers(trunk, ours, theirs, projection))


def _own(trunk: Any, ours: str, projection: Pair) -> Part:
    described = {k: v for k, v in trunk.config.to_dict().items() if k not in ("_name_or_path", "architectures")}
    return Part(
        lambda: described,
        [projection, *_same(trunk, ours, TEXT[1])],
        _same_layers(trunk, ours, TEXT[1], projection),
    )


def _same(module: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    return (Pair(f"{ours}.{name}", f"{theirs}.{name}") for name in module.state_dict())


def _same_layers(module: nn.Module, ours: str, theirs: str, projection: Pair) -> list[tuple[str, str]]:
    """Return what has parameters of its own, in the order in which it is written down, and the projection."""
    names = [name for name, one in module.named_modules() if name and any(True for _ in one.parameters(recurse=False))]
    last = [
        (name.removesuffix(".weight"), projection.their_names[0].removesuffix(".weight"))
        for name in projection.our_names
    ]
    return [*((f"{ours}.{name}", f"{theirs}.{name}") for name in names), *last]


def _nested(model: str, config: str, name: str) -> str:
    """Return what transformers puts before the names of CLIP's towers: older versions have a module in between."""
    import transformers

    with torch.device("meta"):
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        tower = getattr(transformers, model)(getattr(transformers, config)(**shape))
    return f"{name}." if hasattr(tower, name) else ""


def timm_args(built: Built) -> dict[str, Any] | None:
    """Return what timm must be told beside the architecture to build the same tower, or None where it cannot be."""
    model: Any = built.model
    if built.config.model_cfg:
        vision = CLIPVisionCfg(**built.config.model_cfg["vision_cfg"])
        trunk: Any = model.inner.visual.trunk
        pooling = {"global_pool": vision.timm_pool} if vision.timm_pool else {}
        # open_clip sets the pooling of a tower that exists: its norm stays where it was.
        tried = [pooling, {**pooling, "fc_norm": False}]
    else:
        trunk, spec = model.image.trunk, built.config.image
        options = dict(spec.get("options") or {})
        tried = [{"img_size": built.config.image_size, **options}, options]
    expected = {name: value.shape for name, value in trunk.state_dict().items()}
    for args in tried:
        try:
            with torch.device("meta"):
                found = timm.create_model(trunk.pretrained_cfg["architecture"], num_classes=0, **args)
        except TypeError:  # convolutional towers know no img_size, and only ViTs an fc_norm
            continue
        if {name: value.shape for name, value in found.state_dict().items()} == expected:
            return args
    return None
