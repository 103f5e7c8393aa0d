"""A folder of sentence-transformers, read by it."""

from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer


class Reader:
    """See run.py. `encode` of the library is run beside the steps that it is made of, and compared with them."""

    def __init__(self, folder: str) -> None:
        self.model = SentenceTransformer(folder, device="cpu", local_files_only=True, trust_remote_code=False)
        self.encoded = 0.0
        self.default: float | None = None

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        return self._forward({"pixel_values": torch.from_numpy(pixels), "modality": "image"})

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        text = torch.from_numpy(ids)
        given: dict[str, Any] = {"input_ids": text, "modality": "text"}
        if self._is_masked():
            given["attention_mask"] = (text != self.model.tokenizer.pad_token_id).long()
        return self._forward(given)

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        pixels = self.model.preprocess(images)["pixel_values"]
        self._compare(images, self.embed_image(pixels.numpy()))
        return pixels.numpy()

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        features = self.model.preprocess(texts)
        ids = features["input_ids"].numpy()
        self._compare(texts, self._forward(dict(features)))
        return ids

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.model.get_submodule(name)

    def extra(self) -> dict[str, Any]:
        """Return the largest difference between `encode` and our own steps, for images and texts."""
        return {"extra:encode": np.array(self.encoded)}

    def _forward(self, features: dict[str, Any]) -> Any:
        with torch.inference_mode():
            return self.model(features)["sentence_embedding"].numpy()

    def _compare(self, inputs: list[Any], expected: Any) -> None:
        found = self.model.encode(inputs, convert_to_numpy=True)
        self.encoded = max(self.encoded, float(np.abs(found - expected).max()))

    def _is_masked(self) -> bool:
        """Return whether the text tower is told what is padding: all but CLIP's, which looks back, and SigLIP's."""
        config = getattr(getattr(self.model[0], "model", None), "config", None)
        if config is None:  # two towers
            return True
        if config.model_type != "vision-text-dual-encoder":
            return False
        return bool(config.text_config.model_type != "clip_text_model")
