"""A plain folder: its tensors read by the safetensors library, its embeddings by contrastive, whose form it is."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from contrastive.models.checkpoint import WEIGHTS, load


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        self.tensors = load_file(Path(folder) / WEIGHTS)
        self.loaded = load(folder)

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        with torch.inference_mode():
            return self.loaded.model.encode_image(torch.from_numpy(pixels)).numpy()

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        with torch.inference_mode():
            return self.loaded.model.encode_text(torch.from_numpy(ids)).numpy()

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        return np.stack([self.loaded.transform(image).numpy() for image in images])

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        return self.loaded.tokenizer(texts).numpy()

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.loaded.model.get_submodule(name)

    def numbers(self) -> dict[str, Any]:
        """Return scale and bias of the logits."""
        return {name: value.item() for name, value in self.loaded.model.logit_parameters().items()}

    def extra(self) -> dict[str, Any]:
        """Return how many tensors there are, and the SHA-256 of their sorted names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors.items()):
            digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode() + value.tobytes())
        return {"extra:tensors": np.array(len(self.tensors)), "extra:sha256": np.array(digest.hexdigest())}
