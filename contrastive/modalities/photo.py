"""Photographs: mirrored, recoloured or made grey on the device, each row by its own seed.

Shapes: B batch, H and W of the image. The formulas are torchvision's `adjust_brightness`, `adjust_contrast`,
`adjust_saturation` and `adjust_hue`, with a factor for every row, in this order.
"""

import torch
from torch import Tensor, nn

from contrastive.hashing import uniform

LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey


class Photo(nn.Module):
    """Changes a photograph as SimCLR does (Chen et al. 2020, appendix A), without the crop, which is the loader's.

    `flip`, `jitter` and `grey` are probabilities. `brightness`, `contrast` and `saturation` are the largest changes of
    a factor around 1, drawn uniformly; `hue` is the largest turn of the colour circle, 0 to 0.5.
    """

    def __init__(
        self,
        flip: float = 0.5,
        jitter: float = 0.0,
        brightness: float = 0.32,
        contrast: float = 0.32,
        saturation: float = 0.32,
        hue: float = 0.08,
        grey: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("flip", flip), ("jitter", jitter), ("grey", grey)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} must be a probability, 0 to 1")
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} must be 0 to 1, the largest change of a factor around 1")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue {hue} must be 0 to 0.5 of the colour circle")
        self.flip, self.jitter, self.grey = flip, jitter, grey
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    @torch.no_grad()
    def forward(self, image: Tensor, seed: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in 0..1, changed by their seeds int64 [B]."""
        with torch.autocast(image.device.type, enabled=False):
            draws = uniform(seed, 7)
            image = _where(draws[:, 0] < self.flip, image.flip(-1), image) if self.flip else image
            if self.jitter:
                image = _where(draws[:, 1] < self.jitter, self._jittered(image.float(), 2 * draws[:, 2:6] - 1), image)
            return _where(draws[:, 6] < self.grey, _luma(image).expand_as(image), image) if self.grey else image

    def _jittered(self, image: Tensor, signed: Tensor) -> Tensor:
        factors = [
            1 + limit * signed[:, i] for i, limit in enumerate((self.brightness, self.contrast, self.saturation))
        ]
        image = (image * _per_row(factors[0])).clamp(0, 1)
        image = _blend(image, _luma(image).mean(dim=(1, 2, 3), keepdim=True), factors[1])
        image = _blend(image, _luma(image), factors[2])
        return turn_hue(image, self.hue * signed[:, 3]) if self.hue else image


def turn_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Return RGB images [B, 3, H, W] in 0..1 with their hues turned by `turn` [B], in circles."""
    value, least = image.amax(dim=1), image.amin(dim=1)  # [B, H, W]
    chroma = value - least
    safe = torch.where(chroma == 0, 1, chroma)
    red, green, blue = image.unbind(dim=1)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turn[:, None, None]
    # A channel is value - chroma * f((sixth + n) mod 6), n = 5, 3, 1 (the alternative formula of HSV to RGB).
    shifted = (torch.stack([sixth + n for n in (5, 3, 1)], dim=1)).remainder(6)  # [B, 3, H, W]
    weight = torch.minimum(shifted, 4 - shifted).clamp(0, 1)
    return value[:, None] - chroma[:, None] * weight


def _luma(image: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=image.device, dtype=image.dtype)[:, None, None]
    return (image * weights).sum(dim=1, keepdim=True)  # [B, 1, H, W]


def _blend(image: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (_per_row(factor) * image + (1 - _per_row(factor)) * other).clamp(0, 1)


def _per_row(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]


def _where(rows: Tensor, changed: Tensor, image: Tensor) -> Tensor:
    return torch.where(rows[:, None, None, None], changed, image)
