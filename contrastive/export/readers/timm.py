"""A folder of timm, read by timm."""

from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_model_data_config


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.transform = create_transform(**resolve_model_data_config(self.model), is_training=False)

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(pixels)).numpy()

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        return np.stack([self.transform(image).numpy() for image in images])

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.model.get_submodule(name)
