"""Any image tower of timm."""

from typing import Any

import timm
from torch import Tensor, nn

from contrastive.errors import ModelError, why_unread


class TimmImage(nn.Module):
    """timm's model `model`, without its classifier; pooled as timm pools it.

    `pretrained` asks timm for weights and fails when it has none. A `local-dir:` model must say it, because timm builds
    one without it with random weights, silently.
    """

    def __init__(
        self, model: str, image_size: int, pretrained: bool | None = None, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if model.startswith("local-dir:") and pretrained is None:
            raise ValueError(f"say pretrained: true or false; without it timm gives {model} random weights")
        options, pretrained = dict(options or {}), bool(pretrained)
        try:
            self.trunk = timm.create_model(model, pretrained=pretrained, num_classes=0, img_size=image_size, **options)
        except TypeError:  # convolutional towers take any size and know no img_size
            self.trunk = timm.create_model(model, pretrained=pretrained, num_classes=0, **options)
        except RuntimeError as error:  # pickled weights that hold more than tensors, an unknown name, weights that miss
            raise ModelError(f"{model}: cannot be loaded: {why_unread(error)}") from error
        self.width = self.trunk.num_features

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, width]) of images [B, 3, H, W]."""
        features = self.trunk.forward_features(image)  # [B, L, width] or [B, width, h, w] or [B, h, w, width]
        pooled = self.trunk.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            channels_last = features.shape[-1] == self.trunk.num_features != features.shape[1]
            features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        return pooled, features
