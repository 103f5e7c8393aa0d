"""A checkpoint folder of ours, read by this package."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[3]))  # where it runs from a checkout and is not installed

from contrastive.models.checkpoint import load
from contrastive.models.identity import identity


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        self.loaded = load(folder)

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        with torch.inference_mode():
            return self.loaded.model.encode_image(torch.from_numpy(pixels)).numpy()

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        with torch.inference_mode():
            return self.loaded.model.encode_text(torch.from_numpy(ids)).numpy()

    def pixels(self, images: list[Image.Image]) -> Any:
        """Return [N, 3, H, W]."""
        return np.stack([self.loaded.transform(image).numpy() for image in images])

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        return self.loaded.tokenizer(texts).numpy()

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.loaded.model.get_submodule(name)

    def numbers(self) -> dict[str, float]:
        """Return scale and bias of the logits."""
        return {name: value.item() for name, value in self.loaded.model.logit_parameters().items()}

    def extra(self) -> dict[str, Any]:
        """Return a digest of weights and preprocessing."""
        preprocess = {"preprocess": self.loaded.info["preprocess"]}
        return {"extra:digest": np.array(identity(self.loaded.model.state_dict(), preprocess))}
