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

from contrastive.modalities.decode import Orientation, Pixels, as_rgb, decode

Box = tuple[int, int, int, int]  # top, left, height, width
RATIO = 4 / 3  # of the longer to the shorter side of a crop, at most
LOG_RATIO = math.log(RATIO)
CROP_DRAWS = 40  # ten tries of four numbers
# What torchvision's resize of uint8 calls, with a place for the result. Its name is private: without it, we copy.
RESIZE_INTO = getattr(getattr(torch.ops.aten, "_upsample_bicubic2d_aa", None), "out", None)


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
        return (image - mean).div_(std)  # of two arrays as large as the batch one is enough


def _evaluate(transform: Callable[[Image.Image], Tensor], orientation: Orientation, image: Image.Image) -> Tensor:
    return transform(as_rgb(image, orientation))


class TrainTransform:
    """Encoded bytes to the uint8 pixels of one training sample; what is left to do happens in batch, on the device.

    With `random_crop` (least, most share of the area) a crop is chosen as torchvision's RandomResizedCrop chooses it,
    from `draws`; without it, the resize of evaluation is applied. `decode_scale` decodes a JPEG at 1/2, 1/4
    or 1/8 where what is kept of it still has `size` pixels a side: faster, and not the same pixels.
    """

    def __init__(
        self, preprocess: Preprocess, random_crop: tuple[float, float] | None, decode_scale: bool = False
    ) -> None:
        self.preprocess, self.random_crop, self.decode_scale = preprocess, random_crop, decode_scale
        self.interpolation = InterpolationMode(preprocess.interpolation)

    def __call__(self, data: bytes, draws: NDArray[np.float64]) -> Tensor:
        """Return uint8 [3, size, size] of an encoded image; see `into`."""
        out = torch.empty(self.preprocess.size, self.preprocess.size, 3, dtype=torch.uint8)
        self.into(data, draws, out)
        return out.permute(2, 0, 1)

    def into(self, data: bytes, draws: NDArray[np.float64], out: Tensor) -> None:
        """Write the pixels of an encoded image into `out`, uint8 [size, size, 3].

        `draws` are uniform numbers in [0, 1), CROP_DRAWS of them; see `crop_box`.

        Raises:
            BadImageError: see `decode`.
        """
        self.write(self.decode(data, draws), draws, out)

    def decode(self, data: bytes, draws: NDArray[np.float64]) -> Pixels:
        """Return the pixels of an encoded image, uint8 [H, W, 3]: the first half of `into`."""
        reduce = (lambda height, width: self._factor(height, width, draws)) if self.decode_scale else None
        return decode(data, self.preprocess.orientation, reduce)

    def write(self, decoded: Pixels, draws: NDArray[np.float64], out: Tensor) -> None:
        """Crop and resize decoded pixels into `out`: the second half of `into`."""
        if self.random_crop is not None:
            top, left, height, width = crop_box(decoded.shape[0], decoded.shape[1], self.random_crop, draws)
            self._resize_into(decoded[top : top + height, left : left + width], out)
        elif self.preprocess.resize_mode == "squash":
            self._resize_into(decoded, out)
        else:
            out.copy_(self._fitted(torch.from_numpy(decoded).permute(2, 0, 1)).permute(1, 2, 0))

    def _fitted(self, image: Tensor) -> Tensor:
        """Return an image [3, H, W] resized as evaluation resizes it, [3, size, size]."""
        size, (height, width) = self.preprocess.size, image.shape[-2:]
        if (height, width) == (size, size):
            return image
        pick = min if self.preprocess.resize_mode == "shortest" else max
        scale = size / pick(height, width)
        image = self._resize(image, [max(1, round(height * scale)), max(1, round(width * scale))])
        return _centre(image, size, self.preprocess.fill_color)

    def _factor(self, height: int, width: int, draws: NDArray[np.float64]) -> int:
        """Return the largest of 1, 2, 4, 8 by which an image may be reduced before it is cropped and resized."""
        if self.random_crop is not None:
            _, _, height, width = crop_box(height, width, self.random_crop, draws)
        least = max if self.preprocess.resize_mode == "longest" and self.random_crop is None else min
        return max(
            factor for factor in (1, 2, 4, 8) if factor == 1 or least(height, width) >= factor * self.preprocess.size
        )

    def _resize_into(self, image: Pixels, out: Tensor) -> None:
        """Write an image [H, W, 3], resized, into `out` [size, size, 3]."""
        size, (height, width) = self.preprocess.size, image.shape[:2]
        source = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if height > size and 2 * (width - size) < height - size:  # Pillow 13 begins with the columns too: less to do
            source = self._resize(source, [size, width])
        if source.shape[1:] == out.shape[:2]:
            out.copy_(source.permute(1, 2, 0))
        elif RESIZE_INTO is None or self.preprocess.interpolation != "bicubic":
            out.copy_(self._resize(source, [size, size]).permute(1, 2, 0))
        else:
            RESIZE_INTO(source[None], [size, size], False, out=out.permute(2, 0, 1)[None])

    def _resize(self, image: Tensor, size: list[int]) -> Tensor:
        resized: Tensor = pixels.resize(image, size, self.interpolation, antialias=True)
        return resized


def crop_box(height: int, width: int, scale: tuple[float, float], draws: NDArray[np.float64]) -> Box:
    """Return the crop of RandomResizedCrop(scale, ratio=(3/4, 4/3)) for uniform draws, [4 * tries].

    A try takes four numbers: area, shape, and two for the place. torchvision makes ten, and if none fits it takes the
    middle of the image, as much as the ratio lets:
    https://docs.pytorch.org/vision/stable/generated/torchvision.transforms.v2.RandomResizedCrop.html
    """
    tries = iter(draws.tolist())
    for share, shape, down, right in zip(tries, tries, tries, tries, strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        ratio = math.exp(LOG_RATIO * (2 * shape - 1))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int((height - crop_height + 1) * down), int((width - crop_width + 1) * right)
            return top, left, crop_height, crop_width
    crop_height = max(1, min(height, round(width * RATIO)))
    crop_width = max(1, min(width, round(height * RATIO)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _centre(image: Tensor, size: int, fill: int) -> Tensor:
    height, width = image.shape[-2:]
    missing_height, missing_width = max(0, size - height), max(0, size - width)
    if missing_height or missing_width:
        left, top = missing_width // 2, missing_height // 2
        image = torch.nn.functional.pad(image, (left, missing_width - left, top, missing_height - top), value=fill)
        height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[:, top : top + size, left : left + size]
