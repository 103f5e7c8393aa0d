"""`contrastive import`: any model as a checkpoint folder of ours, whole and proved, or nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.errors import ModelError
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.folder import check_output, writing
from contrastive.export.parity import Claim, Parity, verify
from contrastive.export.probe import Probe, built_in_probe
from contrastive.export.source import Source, open_source
from contrastive.models.checkpoint import WEIGHTS, Weights, describe, write_tensors
from contrastive.models.identity import identity


@dataclass(frozen=True)
class Imported:
    """A checkpoint folder with what came of its proof."""

    folder: Path
    source: Source
    parity: Parity

    def lines(self) -> list[str]:
        """Return what it is, for people."""
        built = self.source.built
        model, logits = built.model, built.model.logit_parameters()
        millions = [f"{sum(p.numel() for p in own) / 1e6:,.1f} M {tower}" for tower, own in model.towers().items()]
        scale, bias = logits["logit_scale"].item(), logits.get("logit_bias")
        also = "" if bias is None else f", bias {bias.item():.4g}"
        distance = max(tower.max_distance for tower in self.parity.towers.values())
        return [
            f"{self.folder}: {self.source.form}",
            f"  architecture: {architecture(self.source)}",
            f"  parameters: {', '.join(millions)}",
            f"  image size: {built.preprocess.size}, context length: {built.tokenizer.spec.context_length}, "
            f"shared space: {model.embed_dim}",
            f"  logit scale: {math.exp(scale):.4g} (temperature {math.exp(-scale):.4g}){also}",
            f"  read again in a fresh process: embeddings {distance:.1e} apart, identity {self.source.identity[:12]}",
        ]


class OurCheckpoint:
    """The folder that `models.checkpoint` reads, as `export.parity` asks for one."""

    def __init__(self) -> None:
        self.requires: Mapping[str, str] = {}
        self.towers: Sequence[Tower] = ("image", "text")
        self.tolerance = Tolerance()
        self.reader = "contrastive"

    def check(self, source: Source) -> None:
        """Refuse nothing: whatever can be opened can be kept."""

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write description, tokenizer and weights."""
        known = {name: value for name, value in source.info.items() if name not in ("form", "path", "preprocess")}
        origin = {"form": source.info.get("path", source.form), "identity": source.identity}
        describe(folder, source.built, {**known, "imported": origin})
        weights = source.built.model.state_dict()
        write_tensors(folder / WEIGHTS, {name: value.contiguous().clone() for name, value in weights.items()})
        return Written()

    def loading(self, folder: str) -> str:
        """Return how we load it."""
        return f"""from contrastive.models.checkpoint import load
model = load("{folder}")
image_features = model.model.encode_image(model.transform(image)[None])
text_features = model.model.encode_text(model.tokenizer(["a photo of a cat"]))"""


def import_model(form: str, out: Path, weights: Weights = "trained") -> Imported:
    """Write the model that `form` names, any of `models.forms`, as a checkpoint folder of ours; see `Imported`.

    It is read again in a fresh process before it takes its place: weights, description, pixels and tokens are those of
    the model, bit by bit.

    Raises:
        ConfigError: `out` exists.
        ModelError: there is no such model, it cannot be rebuilt, or what was written is not it.
        RunError: it cannot be written.
    """
    check_output(out)
    source, ours, probe = open_source(form, weights), OurCheckpoint(), built_in_probe()
    with writing(out) as scratch:
        written = ours.write(source, scratch, probe)
        try:
            parity = verify(Claim(source, ours, written, scratch, probe))
            _require_same(source, parity)
        except ModelError as error:
            raise ModelError(f"{form}: what was written of it is not it: {error}") from error
    return Imported(out, source, parity)


def _require_same(source: Source, parity: Parity) -> None:
    """Refuse other bits; the tokenizer's files may say where they were loaded from, so that its ids are compared."""
    built = source.built
    expected = identity(built.model.state_dict(), {"preprocess": built.preprocess.to_dict()})
    if parity.extra["digest"] != expected:
        raise ModelError("its weights or its preprocessing are others")
    if not parity.ids_equal == parity.ids_equal_mended == 1:
        raise ModelError("its tokenizer gives other ids")


def architecture(source: Source) -> str:
    """Return both towers in a few words."""
    config, described = source.built.config, source.model_cfg
    if described is None:
        return f"image {config.image['name']}, text {config.text['name']}"
    return f"open_clip, image {_image(described['vision_cfg'])}, text {_text(described['text_cfg'])}"


def _image(cfg: Mapping[str, Any]) -> str:
    if cfg.get("timm_model_name"):
        return f"timm {cfg['timm_model_name']}"
    layers, width = cfg.get("layers", 12), cfg.get("width", 768)
    if isinstance(layers, list | tuple):
        return f"ResNet {'-'.join(map(str, layers))}, width {width}"
    return f"ViT of {layers} layers, width {width}, patch {cfg.get('patch_size', 16)}"


def _text(cfg: Mapping[str, Any]) -> str:
    if cfg.get("hf_model_name"):
        return f"transformers {cfg['hf_model_name']}"
    return f"transformer of {cfg.get('layers', 12)} layers, width {cfg.get('width', 512)}"
