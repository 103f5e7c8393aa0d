"""A folder that transformers loads offline, without remote code: a model, its processor and its tokenizer.

A CLIPModel, a SiglipModel or a VisionTextDualEncoderModel: see `models.mapping`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from contrastive.errors import ModelError
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.export.tokenizer_files import MENDING, tokenizer_refusal
from contrastive.export.transformers_files import preprocess_notes, preprocess_refusal, write_processor
from contrastive.models import huggingface
from contrastive.models.mapping import kind_of, to_transformers

INSTEAD = "export to open_clip, onnx, torch_export or safetensors"


class Transformers:
    """A folder for `AutoModel` and `AutoProcessor`."""

    requires: ClassVar[Mapping[str, str]] = {}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "transformers"

    def check(self, source: Source) -> None:
        """Refuse what no class of transformers computes, and inputs that no processor of it prepares.

        Raises:
            ModelError: naming the key.
        """
        built = source.built
        instead = INSTEAD if source.model_cfg else INSTEAD.replace("open_clip, ", "")
        try:
            kind_of(built)
        except ModelError as error:
            raise ModelError(f"{error}; {instead}") from None
        for refusal in (preprocess_refusal(built.preprocess), tokenizer_refusal(built.tokenizer)):
            if refusal is not None:
                raise ModelError(f"{refusal}; {instead}")

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write the model, the tokenizer and the processor."""
        built = source.built
        converted = to_transformers(built)
        with huggingface.quiet():
            converted.model.save_pretrained(folder)  # as safetensors
        write_processor(built.preprocess, built.tokenizer, folder, converted.model.config)
        return Written(converted.layers, [*preprocess_notes(built.preprocess), MENDING])

    def loading(self, folder: str) -> str:
        """Return how transformers loads it."""
        return f"""from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained("{folder}"), AutoProcessor.from_pretrained("{folder}", backend="pil")
texts = processor.tokenizer(["a photo of a cat"], padding="max_length", truncation=True, return_tensors="pt")
image_features = model.get_image_features(**processor.image_processor(image, return_tensors="pt")).pooler_output
text_features = model.get_text_features(**texts).pooler_output"""
