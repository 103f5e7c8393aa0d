"""The plain form: our checkpoint folder with what rebuilds the model and nothing of the run that made it.

`contrastive.models.checkpoint.load` gives the model back. Any reader of safetensors has its tensors, those of an
open_clip model under open_clip's own names behind `inner.`, but tensors alone embed nothing: the library that this
format is for, and that proves it, is `contrastive`. What the safetensors library itself reads is a digest in
export.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.layers import computed
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.models.checkpoint import WEIGHTS, describe, write_tensors

KEPT = ("step", "samples_seen")  # of a checkpoint's info: the rest is for going on with its run


class Safetensors:
    """Weights with our own description of the model."""

    requires: ClassVar[Mapping[str, str]] = {}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "safetensors"

    def check(self, source: Source) -> None:
        """Take any model: the form is our own."""

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write description, weights and tokenizer."""
        describe(folder, source.built, {name: source.info[name] for name in KEPT if name in source.info})
        prefix = "" if source.inner is None else "inner."
        weights = {prefix + name: value.contiguous().clone() for name, value in source.weights.items()}
        write_tensors(folder / WEIGHTS, weights)
        named = f"open_clip's own behind `{prefix}`" if prefix else "those of `contrastive.models`"
        layers = {tower: [(name, prefix + name) for name in names] for tower, names in computed(source).items()}
        return Written(layers, [f"Any reader of safetensors opens {WEIGHTS}; the names of its tensors are {named}."])

    def loading(self, folder: str) -> str:
        """Return how contrastive loads it."""
        return f"""from contrastive.models.checkpoint import load
loaded = load("{folder}")
image_features = loaded.model.encode_image(loaded.transform(image)[None])
text_features = loaded.model.encode_text(loaded.tokenizer(["a photo of a cat"]))"""
