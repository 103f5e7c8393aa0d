"""Images: encoded bytes to uint8 pixels for training, and the reference transform for evaluation.

Both read one `Preprocess`, which is stored with the checkpoint, so training and evaluation cannot differ.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from contrastive.modalities.decode import Orientation, as_rgb, decode

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input; all fields but `orientation` are open_clip's `preprocess_cfg`.

    Published models saw images as they are `stored`; `upright` turns those whose EXIF says so.
    """

    size: int
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = 0
    orientation: Orientation = "stored"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON and YAML hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def evaluation_transform(self) -> Callable[[Image.Image], Tensor]:
        """Return open_clip's own evaluation transform: PIL image to normalised float32 [3, size, size]."""
        settings = {name: value for name, value in asdict(self).items() if name != "orientation"}
        transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        return partial(_evaluate, transform, self.orientation)

    def normalise(self, image: Tensor) -> Tensor:
        """Return (image - mean) / std of float images [B, 3, H, W] in 0..1."""
        mean = torch.tensor(self.mean, device=image.device, dtype=image.dtype)[:, None, None]
        std = torch.tensor(self.std, device=image.device, dtype=image.dtype)[:, None, None]
        return (image - mean) / std


def _evaluate(transform: Callable[[Image.Image], Tensor], orientation: Orientation, image: Image.Image) -> Tensor:
    return transform(as_rgb(image, orientation))


class TrainTransform:
    """Encoded bytes to the uint8 pixels of one training sample; what is left to do happens in batch, on the device.

    With `random_crop` (least, most share of the area) a square-ish crop is drawn as torchvision's RandomResizedCrop
    draws it, from `draws`; without it, the resize of evaluation is applied. `decode_scale` decodes a JPEG at 1/2, 1/4
    or 1/8 where what is kept of it still has `size` pixels a side: faster, and not the same pixels.
    """

    def __init__(
        self, preprocess: Preprocess, random_crop: tuple[float, float] | None, decode_scale: bool = False
    ) -> None:
        self.preprocess, self.random_crop, self.decode_scale = preprocess, random_crop, decode_scale
        self.interpolation = InterpolationMode(preprocess.interpolation)

    def __call__(self, data: bytes, draws: NDArray[np.float64]) -> Tensor:
        """Return uint8 [3, size, size] of an encoded image; `draws` are four uniform numbers in [0, 1).

        Raises:
            BadImageError: see `decode`.
        """
        reduce = (lambda height, width: self._factor(height, width, draws)) if self.decode_scale else None
        decoded = decode(data, self.preprocess.orientation, reduce)
        image, size = torch.from_numpy(decoded).permute(2, 0, 1), self.preprocess.size  # a view, channels last
        height, width = image.shape[-2:]
        if self.random_crop is not None:
            top, left, height, width = crop_box(height, width, self.random_crop, draws)
            return self._resize(image[:, top : top + height, left : left + width], [size, size])
        if (height, width) == (size, size):
            return image
        if self.preprocess.resize_mode == "squash":
            return self._resize(image, [size, size])
        pick = min if self.preprocess.resize_mode == "shortest" else max
        scale = size / pick(height, width)
        image = self._resize(image, [max(1, round(height * scale)), max(1, round(width * scale))])
        return _centre(image, size, self.preprocess.fill_color)

    def into(self, data: bytes, draws: NDArray[np.float64], out: Tensor) -> None:
        """Write the pixels of an encoded image into `out`, uint8 [size, size, 3]; see `__call__`."""
        out.copy_(self(data, draws).permute(1, 2, 0))

    def _factor(self, height: int, width: int, draws: NDArray[np.float64]) -> int:
        """Return the largest of 1, 2, 4, 8 by which an image may be reduced before it is cropped and resized."""
        if self.random_crop is not None:
            _, _, height, width = crop_box(height, width, self.random_crop, draws)
        least = max if self.preprocess.resize_mode == "longest" and self.random_crop is None else min
        return max(
            factor for factor in (1, 2, 4, 8) if factor == 1 or least(height, width) >= factor * self.preprocess.size
        )

    def _resize(self, image: Tensor, size: list[int]) -> Tensor:
        resized: Tensor = pixels.resize(image, size, self.interpolation, antialias=True)
        return resized


def crop_box(height: int, width: int, scale: tuple[float, float], draws: NDArray[np.float64]) -> Box:
    """Return the crop of RandomResizedCrop(scale, ratio=(3/4, 4/3)) for four uniform draws: area, shape, top, left.

    Where torchvision would try again, the crop is cut to what fits.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draws[1])
    crop_width = min(width, max(1, round(math.sqrt(area * ratio))))
    crop_height = min(height, max(1, round(math.sqrt(area / ratio))))
    top, left = int((height - crop_height + 1) * draws[2]), int((width - crop_width + 1) * draws[3])
    return top, left, crop_height, crop_width


def _centre(image: Tensor, size: int, fill: int) -> Tensor:
    height, width = image.shape[-2:]
    missing_height, missing_width = max(0, size - height), max(0, size - width)
    if missing_height or missing_width:
        left, top = missing_width // 2, missing_height // 2
        image = torch.nn.functional.pad(image, (left, missing_width - left, top, missing_height - top), value=fill)
        height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[:, top : top + size, left : left + size]
