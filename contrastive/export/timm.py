"""The image tower alone, as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

The projection into the shared space is timm's classifier: the model gives image_features before they are normalised,
with `num_classes=0` what is pooled before it, with `num_classes=10` a fresh head. transformers' `AutoModel` opens the
same folder.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from open_clip.model import CLIPVisionCfg
from timm.models import save_for_hf
from timm.models.byobnet import checkpoint_filter_fn as to_resnet
from timm.models.vision_transformer import checkpoint_filter_fn as to_vit
from torch import Tensor, nn

from contrastive.errors import ModelError
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.modalities.image import Preprocess

CONFIG = "config.json"
INSTEAD = "export to open_clip, onnx, torch_export or safetensors"
VISION = "model.model_cfg.vision_cfg"
VIT, VIT_QUICK_GELU = "vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224"  # sizes are arguments
UNKNOWN = (  # what timm's VisionTransformer has not, or has otherwise
    *("attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn"),
    *("scale_fc", "norm_kwargs", "act_kwargs"),
)
POOLS = {"tok": "token", "avg": "avg"}
RESNETS = {
    (3, 4, 6, 3): "resnet50_clip",
    (3, 4, 23, 3): "resnet101_clip",
    (4, 6, 10, 6): "resnet50x4_clip",
    (6, 8, 18, 8): "resnet50x16_clip",
    (3, 15, 36, 10): "resnet50x64_clip",
}
RESNET_WIDTH, RESNET_HEAD = (
    64,
    64,
)  # timm counts widths as factors of the one, and all its heads are as wide as the other
CROP_MODES = {"shortest": "center", "squash": "squash", "longest": "border"}
# All else that a donor's pretrained_cfg says (tag, licence, papers, test sizes, labels) is not true of these weights.
KEPT = ("fixed_input_size", "first_conv", "classifier", "num_classes", "custom_load")
OF_TRAINING = ("drop_rate", "drop_path_rate", "patch_drop_rate")
NOTES = (
    "Say pretrained=True: without it timm builds the architecture with random weights and does not warn.",
    "The classifier is the projection into the shared space: num_classes=0 gives the features before it, "
    "num_classes=10 a fresh head for ten classes.",
)


@dataclass(frozen=True)
class Converted:
    """A model of timm with our weights. `arguments` rebuild it; `layers` are those of `Written`."""

    model: nn.Module
    arguments: dict[str, Any]
    layers: Sequence[tuple[str, str]]


class Timm:
    """A folder for `timm.create_model`."""

    requires: ClassVar[Mapping[str, str]] = {}
    towers: ClassVar[Sequence[Tower]] = ("image",)
    tolerance = Tolerance()
    reader = "timm"

    def check(self, source: Source) -> None:
        """Refuse an image tower that timm has no equal of, or a preprocessing.

        Raises:
            ModelError: naming the key.
        """
        for refusal in (_preprocess_refusal(source.built.preprocess), _tower_refusal(source)):
            if refusal is not None:
                raise ModelError(f"{refusal}; {INSTEAD if source.model_cfg else INSTEAD.replace('open_clip, ', '')}")

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write config.json and model.safetensors.

        Raises:
            ModelError: timm builds another tower of that name than the one that was trained.
        """
        with torch.random.fork_rng(devices=[]):
            found = _converted(source)
        save_for_hf(found.model, str(folder), model_args=found.arguments, safe_serialization=True)
        _describe(folder / CONFIG, source.built.preprocess)
        turned = source.built.preprocess.orientation == "upright"
        rotation = ("timm does not turn images as their EXIF says; our training did.",) if turned else ()
        return Written({"image": found.layers}, (*NOTES, *rotation))

    def loading(self, folder: str) -> str:
        """Return how timm loads it."""
        return f"""import timm
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image_features = model(transform(image)[None])"""


def _preprocess_refusal(preprocess: Preprocess) -> str | None:
    if preprocess.resize_mode == "longest" and any(round(255 * m) != preprocess.fill_color for m in preprocess.mean):
        return (
            f"model.preprocess.resize_mode 'longest': timm fills the border with the mean colour, "
            f"not with fill_color {preprocess.fill_color}"
        )
    return None


def _tower_refusal(source: Source) -> str | None:
    """Return the key that timm cannot hold and why, or None."""
    if source.model_cfg is None:
        name = source.built.config.image.get("name")
        return None if name == "timm" else f"model.image.name {name!r}: timm has no such tower"
    vision = _vision(source)
    if vision.timm_model_name:
        return _timm_refusal(vision)
    return _resnet_refusal(vision) if isinstance(vision.layers, (tuple, list)) else _vit_refusal(vision)


def _timm_refusal(vision: CLIPVisionCfg) -> str | None:
    if vision.timm_pool in ("abs_attn", "rot_attn"):
        return f"{VISION}.timm_pool {vision.timm_pool!r}: is a layer of open_clip behind timm's tower"
    if vision.timm_proj == "mlp":
        return f"{VISION}.timm_proj 'mlp': timm's classifiers are one linear layer"
    return None


def _resnet_refusal(vision: CLIPVisionCfg) -> str | None:
    if tuple(vision.layers) not in RESNETS:
        known = ", ".join(str(list(layers)) for layers in RESNETS)
        return f"{VISION}.layers {list(vision.layers)}: timm has the ResNets of CLIP with {known}"
    if vision.width % 8:
        return f"{VISION}.width {vision.width}: timm's ResNets have widths that 8 divides"
    if vision.head_width != RESNET_HEAD:
        return f"{VISION}.head_width {vision.head_width}: timm's attention pool has heads of {RESNET_HEAD}"
    return None


def _vit_refusal(vision: CLIPVisionCfg) -> str | None:
    for key in UNKNOWN:
        if value := getattr(vision, key):
            return f"{VISION}.{key} {value!r}: timm's VisionTransformer computes otherwise"
    if vision.block_type not in (None, "default"):
        return f"{VISION}.block_type {vision.block_type!r}: timm's VisionTransformer has other blocks"
    if vision.pool_type not in POOLS:
        return f"{VISION}.pool_type {vision.pool_type!r}: is no pooling, and a tower has to pool"
    return None


def _vision(source: Source) -> CLIPVisionCfg:
    return CLIPVisionCfg(**(source.model_cfg or {})["vision_cfg"])


def _converted(source: Source) -> Converted:
    if source.inner is None:
        model, config = source.built.model, source.built.config.image
        towers = model.get_submodule("image.trunk"), model.get_submodule("image_projection")
        return _like(source, *towers, names=("image.trunk", "image_projection"), given=config.get("options") or {})
    vision, visual = _vision(source), source.inner.visual
    if vision.timm_model_name:
        pool = {"global_pool": vision.timm_pool} if vision.timm_pool else {}
        head = getattr(visual.head, "proj", None)
        return _like(source, visual.trunk, head, names=("visual.trunk", "visual.head.proj"), given=pool)
    return _resnet(source, vision) if isinstance(vision.layers, (tuple, list)) else _vit(source, vision)


def _vit(source: Source, vision: CLIPVisionCfg) -> Converted:
    arguments = {
        "img_size": source.built.preprocess.size,
        "patch_size": vision.patch_size,
        "embed_dim": vision.width,
        "depth": vision.layers,
        "num_heads": vision.width // vision.head_width,
        "mlp_ratio": vision.mlp_ratio,
        "init_values": vision.ls_init_value,
        "pre_norm": not vision.no_ln_pre,
        "global_pool": POOLS[vision.pool_type],
        "fc_norm": vision.final_ln_after_pool,  # behind the pooling, not before it
    }
    arguments = {name: value for name, value in arguments.items() if value is not None}
    name = VIT_QUICK_GELU if (source.model_cfg or {}).get("quick_gelu") else VIT
    model = timm.create_model(name, num_classes=source.built.model.embed_dim, **arguments)
    state = {key.replace(".ls_", ".ls"): value for key, value in to_vit(dict(source.weights), model).items()}
    last = "fc_norm" if vision.final_ln_after_pool else "norm"
    state |= {f"{last}.{kind}": state.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    if vision.no_ln_pre:  # timm's patches have a bias where no norm follows
        state["patch_embed.proj.bias"] = torch.zeros(vision.width)
    _load(model, state, VISION)
    return Converted(model, arguments, list(_vit_layers(vision, last)))


def _vit_layers(vision: CLIPVisionCfg, last: str) -> Iterator[tuple[str, str]]:
    yield "visual.conv1", "patch_embed.proj"
    yield "visual.ln_pre", "norm_pre"
    inside = {"ln_1": "norm1", "attn": "attn", "ln_2": "norm2", "mlp.c_fc": "mlp.fc1", "mlp.gelu": "mlp.act"}
    for number in range(vision.layers):
        ours, theirs = f"visual.transformer.resblocks.{number}", f"blocks.{number}"
        yield from ((f"{ours}.{one}", f"{theirs}.{other}") for one, other in inside.items())
        yield f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2"
        yield ours, theirs
    yield "visual.ln_post", last


def _resnet(source: Source, vision: CLIPVisionCfg) -> Converted:
    arguments = {"img_size": source.built.preprocess.size, "width_factor": vision.width / RESNET_WIDTH}
    name = RESNETS[tuple(vision.layers)]
    model = timm.create_model(name, num_classes=source.built.model.embed_dim, **arguments)
    _load(model, to_resnet(dict(source.weights), model), VISION)
    stem = [(f"visual.conv{number}", f"stem.conv{number}.conv") for number in (1, 2, 3)]
    blocks = [
        (f"visual.layer{stage + 1}.{block}", f"stages.{stage}.{block}")
        for stage, count in enumerate(vision.layers)
        for block in range(count)
    ]
    return Converted(model, arguments, [*stem, *blocks, ("visual.attnpool", "head")])


def _like(
    source: Source, trunk: Any, head: nn.Module | None, *, names: tuple[str, str], given: Mapping[str, Any]
) -> Converted:
    """Return timm's own tower again, with our projection as its classifier where there is one."""
    classes = trunk.num_classes if head is None else source.built.model.embed_dim
    architecture, said = trunk.pretrained_cfg["architecture"], ""
    for arguments in _arguments(trunk, given, source.built.preprocess.size):
        try:
            model = timm.create_model(architecture, num_classes=classes, **arguments)
            state, classifier = _with_classifier(model, trunk.state_dict(), head)
            _load(model, state, architecture)
        except (TypeError, ModelError) as error:  # it takes no such argument, or is another tower with it
            said = str(error).splitlines()[0]
            continue
        layers = [(f"{names[0]}.{name}", name) for name in _blocks(trunk) if name != classifier]
        return Converted(model, arguments, layers if classifier is None else [*layers, (names[1], classifier)])
    raise ModelError(f"{architecture}: timm does not build the tower that was trained ({said}); {INSTEAD}")


def _arguments(trunk: Any, given: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Give what may rebuild a tower: not every architecture has an input size or a norm behind its pooling."""
    known = {**getattr(trunk, "_model_args", {}), **given}  # timm's record of what a `local-dir:` model was built with
    known = {name: value for name, value in known.items() if name not in ("num_classes", "img_size", *OF_TRAINING)}
    after_pool = {"fc_norm": not isinstance(trunk.fc_norm, nn.Identity)} if hasattr(trunk, "fc_norm") else {}
    for norm in (after_pool, {}):
        yield {**known, **norm, "img_size": size}
        yield {**known, **norm}


def _with_classifier(model: Any, state: Mapping[str, Tensor], head: Any | None) -> tuple[dict[str, Tensor], str | None]:
    """Return the state with a linear layer as the classifier, and the classifier's name."""
    if head is None:
        return dict(state), None
    last = model.get_classifier()
    name = next((name for name, module in model.named_modules() if module is last), None)
    if name is None or not isinstance(last, (nn.Linear, nn.Conv2d)):
        raise ModelError("its classifier is not one linear layer")
    bias = torch.zeros(len(last.weight)) if head.bias is None else head.bias.detach()
    own = {f"{name}.weight": head.weight.detach().reshape(last.weight.shape), f"{name}.bias": bias}
    return {**state, **own}, name


def _blocks(trunk: nn.Module) -> list[str]:
    """Return the names of blocks and of layers without parts, in order of computation."""
    found = [(name, module) for name, module in trunk.named_modules() if name]
    return [name for name, module in found if name.split(".")[-1].isdigit() or not any(module.children())]


def _load(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ModelError(f"{what}: timm's tower has other weights: {lines[min(1, len(lines) - 1)].strip()}") from error
    model.eval()


def _describe(path: Path, preprocess: Preprocess) -> None:
    """Write our preprocessing into timm's config.json, and leave out what is a donor's."""
    config = json.loads(path.read_text(encoding="utf-8"))
    # transformers' TimmWrapper passes num_classes itself, and a second one would be a TypeError.
    config["model_args"] = {k: v for k, v in config.get("model_args", {}).items() if k != "num_classes"}
    pretrained = {name: config["pretrained_cfg"][name] for name in KEPT if name in config["pretrained_cfg"]}
    config["pretrained_cfg"] = {
        **pretrained,
        "tag": "contrastive",
        "input_size": [3, preprocess.size, preprocess.size],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[preprocess.resize_mode],
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
