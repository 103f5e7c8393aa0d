"""An open_clip folder, read by open_clip."""

from typing import Any

import numpy as np
import open_clip
import torch


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name, require_pretrained=True)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        with torch.inference_mode():
            return self.model.encode_image(torch.from_numpy(pixels)).numpy()

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        with torch.inference_mode():
            return self.model.encode_text(torch.from_numpy(ids)).numpy()

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        return np.stack([self.transform(image).numpy() for image in images])

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        return self.tokenizer(texts).numpy()

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.model.get_submodule(name)

    def numbers(self) -> dict[str, Any]:
        """Return scale and bias of the logits."""
        named = {name: getattr(self.model, name, None) for name in ("logit_scale", "logit_bias")}
        return {name: value.item() for name, value in named.items() if value is not None}
