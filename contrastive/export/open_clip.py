"""open_clip's own folder form: open_clip_config.json, safetensors, and the tokenizer's files where it has any.

`open_clip.create_model_and_transforms("local-dir:FOLDER")` and `open_clip.get_tokenizer` read it; so does open_clip's
trainer, as `--model local-dir:FOLDER`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from contrastive.errors import ModelError
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.layers import computed
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.models.checkpoint import write_tensors

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


class OpenClip:
    """An open_clip folder."""

    requires: ClassVar[Mapping[str, str]] = {}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "open_clip"

    def check(self, source: Source) -> None:
        """Refuse two encoders of the tables: no model_cfg describes them.

        Raises:
            ModelError: naming them.
        """
        if source.model_cfg is None:
            named = f"model.image.name {source.built.config.image.get('name')!r}"
            raise ModelError(
                f"{named}: open_clip has no model_cfg for it, only for whole models of its own; train with "
                "model.model_cfg for this format, or export to onnx, torch_export or safetensors"
            )

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write the configuration, the weights and the tokenizer."""
        model_cfg = json.loads(json.dumps(source.model_cfg))
        text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
        source.built.tokenizer.save(folder)
        for path in (folder / "tokenizer").glob("*"):  # beside the weights, where open_clip looks for it
            path.rename(folder / path.name)
        if (folder / "tokenizer").is_dir():
            (folder / "tokenizer").rmdir()
        text_cfg["context_length"] = source.built.tokenizer.spec.context_length
        if "timm_model_name" in vision_cfg:
            vision_cfg["timm_model_pretrained"] = False
        if "hf_model_name" in text_cfg:
            text_cfg["hf_model_pretrained"] = False
        model_cfg.update(_logits(source))
        preprocess = source.built.preprocess.to_dict()
        content = {"model_cfg": model_cfg, "preprocess_cfg": {name: preprocess[name] for name in PREPROCESS}}
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        weights = dict(source.weights)
        for name in ("logit_scale", "logit_bias"):
            if name in weights:
                weights[name] = weights[name].reshape(())  # open_clip's own form, for it and for its trainer
        write_tensors(folder / WEIGHTS, {name: value.contiguous().clone() for name, value in weights.items()})
        return Written({tower: [(name, name) for name in names] for tower, names in computed(source).items()})

    def loading(self, folder: str) -> str:
        """Return how open_clip loads it."""
        return f"""import open_clip
model, _, transform = open_clip.create_model_and_transforms("local-dir:{folder}", require_pretrained=True)
tokenizer = open_clip.get_tokenizer("local-dir:{folder}")
image_features = model.eval().encode_image(transform(image)[None], normalize=True)
text_features = model.encode_text(tokenizer(["a photo of a cat"]), normalize=True)"""


def _logits(source: Source) -> dict[str, Any]:
    """Return what makes open_clip build a bias of the logits where the model has one."""
    bias = source.built.model.logit_bias
    return {} if bias is None else {"init_logit_bias": float(bias.item())}
