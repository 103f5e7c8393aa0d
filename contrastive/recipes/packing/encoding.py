"""Images made smaller or of another format while they are packed, the same bytes on every machine.

JPEG is decoded by whatever library `contrastive.modalities.decode` finds, for they give equal pixels. The resize is
training's own: torch's antialiased bicubic on uint8, whose sums are whole numbers, so that it gives the same with and
without AVX. Pillow encodes everything: its bytes are the same wherever the same Pillow is installed, while those of
simplejpeg would be others.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from contrastive.errors import ConfigError
from contrastive.modalities.decode import (
    MAX_PIXELS,
    ORIENTATION,
    PILLOW_ERRORS,
    BadImageError,
    Orientation,
    Pixels,
    decode,
    size_of,
)

Fit: TypeAlias = Literal["shortest", "longest", "crop", "squash"]
Format: TypeAlias = Literal["keep", "jpg", "png", "webp"]
# Pixels a side that a format holds; libjpeg's limit is below the 65,535 of the standard.
LONGEST = {"jpg": 65_500, "png": 2**31 - 1, "webp": 16_383}
PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# A JPEG is decoded at a fraction of its size where at least this times the wanted size is left. Photographs of 8
# megapixels at 256, in quality 95, seen by a model at 224: 36.5 dB in 40 ms when decoded in full, 36.3 dB in 26 ms with
# this margin, 35.3 dB in 20 ms with a margin of 2.
MARGIN = 3
UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {  # by the EXIF orientation: what makes stored pixels upright
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: np.rot90,
}
SIGNATURES = (  # offset, bytes, ending
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"GIF8", "gif"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (4, b"ftypavi", "avif"),
    (0, b"\0\0\0\x0cjP  ", "jp2"),
    (0, b"BM", "bmp"),
)


@dataclass(frozen=True)
class Encoding:
    """How images are written. What need not change keeps its bytes; all others are 8-bit RGB of one frame.

    `size` is in pixels, None for as they are. `fit` says of what:

    - `shortest`: the shorter side, ratio kept (img2dataset's keep_ratio).
    - `longest`: the longer side, ratio kept (keep_ratio_largest).
    - `crop`: the shorter side, and the middle of the longer (center_crop).
    - `squash`: both sides, ratio not kept.

    There is no border: padding costs bytes, and training adds it where a model wants it (model.image.resize_mode).
    With `only_larger` no side grows. `format` `keep` leaves JPEG, PNG and WebP what they are; what else must change
    becomes JPEG. `quality` is that of JPEG (4:2:0) and WebP, 1 to 100; PNG is lossless.

    Images are turned as their EXIF says, which training does not do, and the tag goes; with `orientation` `stored` both
    stay as they are. Colour profiles go too: training reads the numbers without them. A transparent image loses its
    alpha, as in training.

    Raises:
        ConfigError: a value that no image could be written with.
    """

    size: int | None = None
    fit: Fit = "shortest"
    format: Format = "keep"
    quality: int = 95
    only_larger: bool = True
    orientation: Orientation = "upright"

    def __post_init__(self) -> None:
        for name, kind in (("fit", Fit), ("format", Format), ("orientation", Orientation)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"{name}: {value!r} is not one of {', '.join(get_args(kind))}")
        longest = LONGEST.get(self.format, min(LONGEST.values()))
        if self.size is not None and not 1 <= self.size <= longest:
            raise ConfigError(f"size: {self.size} pixels; it must be 1 to {longest:,} for format {self.format}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality: {self.quality} must be 1 to 100")

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that an image is resized to; `crop` then takes the middle of it."""
        if self.size is None:
            return width, height
        if self.fit == "squash":
            return (min(width, self.size), min(height, self.size)) if self.only_larger else (self.size, self.size)
        scale = self.size / (max(width, height) if self.fit == "longest" else min(width, height))
        scale = min(scale, 1.0) if self.only_larger else scale
        return max(1, round(width * scale)), max(1, round(height * scale))

    def kept(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that an image has in the end."""
        width, height = self.resized(width, height)
        if self.size is None or self.fit != "crop":
            return width, height
        return min(width, self.size), min(height, self.size)


class Encoded(NamedTuple):
    """An image as it goes into a tar: the ending tells its format, width and height are those of its pixels."""

    content: bytes
    ending: str
    width: int
    height: int


def made_with() -> dict[str, Any]:
    """Return what the bytes depend on besides the encoding: for provenance."""
    return {"pillow": PIL.__version__}


def ending_of(content: bytes) -> str:
    """Return the ending of an encoded image by its first bytes, whatever its file was called.

    Raises:
        BadImageError: not an image.
    """
    for offset, signature, ending in SIGNATURES:
        if content.startswith(signature, offset):
            return ending
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return str(image.format).lower()
    except PILLOW_ERRORS as error:
        raise BadImageError("not an image", f"is not an image: it begins with {content[:16]!r}") from error


def encode(content: bytes, encoding: Encoding) -> Encoded:
    """Return an encoded image as `encoding` wants it; every image is decoded once, so that no damaged one is kept.

    Raises:
        BadImageError: not an image, damaged, or with too many pixels for a decoder or the format, before or after.
    """
    if not content:
        raise BadImageError("empty", "has no bytes")
    ending = ending_of(content)
    stored = size_of(content)
    turn = _orientation(content, ending) if ending in PILLOW_NAMES else 1
    is_turned = encoding.orientation == "upright" and turn > 1
    size = stored[::-1] if is_turned and turn > 4 else stored
    if encoding.format in ("keep", ending) and not is_turned and encoding.kept(*size) == size:
        _decoded(content, max(factor for factor in (1, 2, 4, 8) if factor <= min(size)))
        return Encoded(content, ending, *size)
    resized = encoding.resized(*size)
    _check_room(resized, size)
    pixels = _decoded(content, _factor(size, resized))
    upright = UPRIGHT[turn](pixels) if is_turned else pixels
    made = _middle(_resize(upright, resized), *encoding.kept(*size))
    return _written(made, encoding, ending, 1 if is_turned else turn)


def _orientation(content: bytes, ending: str) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; where it cannot be read, the image is as it is stored."""
    if not _has_exif(content, ending):
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                found = image.getexif().get(ORIENTATION, 1)
    except PILLOW_ERRORS:
        return 1
    return found if found in UPRIGHT else 1


def _has_exif(content: bytes, ending: str) -> bool:
    """Whether there may be EXIF; of a JPEG, segments before the pixels tell, for a search of all takes 0.15 ms."""
    if ending != "jpg":
        return {"png": b"eXIf", "webp": b"EXIF"}[ending] in content
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"\xda", b""):
        if content[at + 1] == 0xE1 and content[at + 4 : at + 8] == b"Exif":
            return True
        has_content = content[at + 1] != 0xFF  # else a fill byte
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big") if has_content else 1
    return False


def _check_room(resized: tuple[int, int], size: tuple[int, int]) -> None:
    if resized[0] * resized[1] > MAX_PIXELS:
        said = f"has {size[0]} x {size[1]} pixels, and would have {resized[0]} x {resized[1]}, more than {MAX_PIXELS:,}"
        raise BadImageError("too many pixels", said)


def _factor(size: tuple[int, int], resized: tuple[int, int]) -> int:
    return max(
        factor
        for factor in (1, 2, 4, 8)
        if factor == 1 or all(side >= factor * MARGIN * wanted for side, wanted in zip(size, resized, strict=True))
    )


def _decoded(content: bytes, factor: int) -> Pixels:
    return decode(content, reduce=lambda *_: factor)  # what is no JPEG is decoded in full


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return pixels [H, W, 3] as [size[1], size[0], 3]."""
    if pixels.shape[1::-1] == size:
        return pixels
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    resized = functional.resize(image, [size[1], size[0]], InterpolationMode.BICUBIC, antialias=True)
    made: Pixels = resized.permute(1, 2, 0).numpy()
    return made


def _middle(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the middle of pixels, where torchvision's center_crop finds it."""
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def _written(pixels: Pixels, encoding: Encoding, ending: str, turn: int) -> Encoded:
    if encoding.format != "keep":
        ending = encoding.format
    elif ending not in PILLOW_NAMES:
        ending = "jpg"
    height, width, _ = pixels.shape
    if max(width, height) > LONGEST[ending]:
        said = f"would have {width} x {height} pixels, and {PILLOW_NAMES[ending]} holds {LONGEST[ending]:,} a side"
        raise BadImageError("too many pixels", said)
    options: dict[str, Any] = {} if turn == 1 else {"exif": _tag(turn)}  # stored pixels keep their tag
    if ending != "png":
        options["quality"] = encoding.quality
    if ending == "jpg":
        options["subsampling"] = "4:2:0"  # Pillow's default, said in case that changes
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, PILLOW_NAMES[ending], **options)
    return Encoded(out.getvalue(), ending, width, height)


def _tag(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return exif
