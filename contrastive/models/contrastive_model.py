"""The model that is trained: images and texts to unit vectors in one space, and the temperature between them."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn, ones

from contrastive.encoders.open_clip import encode_short, is_causal, is_short
from contrastive.registry import IMAGE_ENCODERS, TEXT_ENCODERS, build
from contrastive.settings import ModelConfig


class ContrastiveModel(nn.Module):
    """What every model here offers. `logit_scale` [1] is in log space; `logit_bias` [1] is None without one."""

    embed_dim: int
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    reads_padding: bool = True  # False: captions may be cut behind the longest of a batch

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image_features [B, embed_dim], L2-normalised, of normalised images [B, 3, H, W]."""
        raise NotImplementedError

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text_features [B, embed_dim], L2-normalised, of token ids [B, L]."""
        raise NotImplementedError

    def towers(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the `image` and of the `text` tower: all but those of the logits."""
        raise NotImplementedError

    def logit_parameters(self) -> dict[str, Tensor]:
        """Return the parameters between the towers: `logit_scale` and, where there is one, `logit_bias`."""
        scale: dict[str, Tensor] = {"logit_scale": self.logit_scale}
        return scale if self.logit_bias is None else {**scale, "logit_bias": self.logit_bias}

    def forward(self, image: Tensor | None, text: Tensor | None) -> dict[str, Tensor]:
        """Return `image_features` of images, `text_features` of texts, where given, and the `logit_parameters`."""
        features: dict[str, Tensor] = {}
        if image is not None:
            features["image_features"] = self.encode_image(image)
        if text is not None:
            features["text_features"] = self.encode_text(text)
        return {**features, **self.logit_parameters()}


class DualEncoder(ContrastiveModel):
    """Two encoders of the tables, each with a linear projection into the shared space."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, context_length: int, pad_id: int) -> None:
        super().__init__()
        self.embed_dim = config.embed_dim
        self.image = build(IMAGE_ENCODERS, config.image, "model.image", image_size=config.image_size)
        text_given = {"vocab_size": vocab_size, "context_length": context_length, "pad_id": pad_id}
        self.text = build(TEXT_ENCODERS, config.text, "model.text", **text_given)
        self.reads_padding = getattr(self.text, "reads_padding", True)
        self.image_projection = _projection(self.image.width, config.embed_dim)
        self.text_projection = _projection(self.text.width, config.embed_dim)
        # Shape [1], not a scalar: FSDP2 refuses parameters without a dimension.
        temperature = 0.07 if config.init_temperature is None else config.init_temperature
        self.logit_scale = nn.Parameter(ones(1) * math.log(1 / temperature))
        self.logit_bias = None if config.init_logit_bias is None else nn.Parameter(ones(1) * config.init_logit_bias)

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image_features [B, embed_dim], L2-normalised, of normalised images [B, 3, H, W]."""
        return F.normalize(self.image_projection(self.image(image)[0]), dim=-1)

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text_features [B, embed_dim], L2-normalised, of token ids [B, L]."""
        return F.normalize(self.text_projection(self.text(text)[0]), dim=-1)

    def towers(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each encoder and its projection."""
        image = [*self.image.parameters(), *self.image_projection.parameters()]
        return {"image": image, "text": [*self.text.parameters(), *self.text_projection.parameters()]}


class OpenClipModel(ContrastiveModel):
    """A whole open_clip model behind our names; its state dict is open_clip's own, under `inner`.

    `embed_dim` is that of its model_cfg: where the inner model keeps it depends on the kinds of its towers.
    """

    def __init__(self, inner: Any, embed_dim: int) -> None:
        super().__init__()
        self.inner, self.embed_dim = inner, embed_dim
        self.reads_padding = not is_causal(self._text_tower)

    @property
    def _text_tower(self) -> nn.Module:
        tower: nn.Module = getattr(self.inner, "text", self.inner)  # CLIP is its own text tower
        return tower

    @property
    def logit_scale(self) -> nn.Parameter:  # type: ignore[override]
        """The inner model's, [1], in log space."""
        return self.inner.logit_scale  # type: ignore[no-any-return]

    @property
    def logit_bias(self) -> nn.Parameter | None:  # type: ignore[override]
        """The inner model's, [1], or None."""
        return getattr(self.inner, "logit_bias", None)

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image_features [B, embed_dim], L2-normalised, of normalised images [B, 3, H, W]."""
        return self.inner.encode_image(image, normalize=True)  # type: ignore[no-any-return]

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text_features [B, embed_dim], L2-normalised, of token ids [B, L]."""
        if is_short(self._text_tower, text):
            return F.normalize(encode_short(self._text_tower, text)[0], dim=-1)
        return self.inner.encode_text(text, normalize=True)  # type: ignore[no-any-return]

    def towers(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of `visual`, and all others: the text tower's may lie at the top of the inner model."""
        image = list(self.inner.visual.parameters())
        apart = {id(parameter) for parameter in (*image, *self.logit_parameters().values())}
        return {"image": image, "text": [p for p in self.inner.parameters() if id(p) not in apart]}


def _projection(width: int, embed_dim: int) -> nn.Linear:
    projection = nn.Linear(width, embed_dim, bias=False)
    nn.init.normal_(projection.weight, std=width**-0.5)  # as CLIP initialises its projections
    return projection
