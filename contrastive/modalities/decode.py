"""Encoded bytes to RGB pixels, by the fastest library that gives exactly what Pillow gives.

simplejpeg (the `fast` extra) or torchvision take plain JPEG, torchvision plain PNG; Pillow takes everything odd, and
whatever the others stumble over. Which one was used cannot be seen in the pixels.
"""

import importlib.util
import io
import struct
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import io as torchvision_io

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
Orientation: TypeAlias = Literal["stored", "upright"]
Reduce: TypeAlias = Callable[[int, int], int]  # height and width to 1, 2, 4 or 8
MAX_PIXELS = 64_000_000  # of an encoded image: a larger one is a decompression bomb until shown otherwise
# torchvision 0.29 says that its decoders will go; Pillow then takes their place.
HAS_TORCHVISION = hasattr(torchvision_io, "decode_png")
HAS_SIMPLEJPEG = importlib.util.find_spec("simplejpeg") is not None
ORIENTATION = 0x0112  # the tag of EXIF
# Pillow's plugins raise many types on damaged bytes; whichever it is, the remedy is the same. A MemoryError is none of
# them: sizes are bounded, and what does not fit is no reason to train on something else.
PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, IndexError, EOFError, TypeError, struct.error),
    Image.DecompressionBombError,
)


class BadImageError(ValueError):
    """Bytes that are no usable image; `reason` is one of few words to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Header(NamedTuple):
    kind: Literal["jpeg", "png", "other"]  # other: for Pillow
    height: int
    width: int


def decode(data: bytes, orientation: Orientation = "stored", reduce: Reduce | None = None) -> Pixels:
    """Return the pixels of an encoded image, uint8 [H, W, 3]; of several frames the first.

    Alpha is dropped and 16 bits are scaled to 8. `upright` turns the image as its EXIF says, `stored` does not, as
    published models were trained. `reduce` may answer 2, 4 or 8 for a JPEG, which is then decoded at that fraction of
    its size.

    Raises:
        BadImageError: not an image, damaged, or larger than MAX_PIXELS.
    """
    if not data:
        raise BadImageError("empty", "has no bytes")
    header = _header(data)
    _check_size(header.width, header.height)
    turned = orientation == "upright" and any(mark in data for mark in (b"Exif", b"eXIf", b"EXIF"))
    if turned or header.kind == "other":
        return _by_pillow(data, orientation, 1)
    factor = reduce(header.height, header.width) if reduce is not None and header.kind == "jpeg" else 1
    try:
        if HAS_SIMPLEJPEG and header.kind == "jpeg":
            return _by_simplejpeg(data, header, factor)
        if HAS_TORCHVISION and factor == 1 and (header.kind == "png" or _is_whole(data)):
            return _by_torchvision(data, header)
        return _by_pillow(data, orientation, factor)
    except (RuntimeError, ValueError):
        return _by_pillow(data, orientation, factor)


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height of an encoded image, as stored, from its header alone.

    Raises:
        BadImageError: not an image.
    """
    header = _header(data)
    if header.width and header.height:
        return header.width, header.height
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return image.size
    except PILLOW_ERRORS as error:
        raise BadImageError("not an image", f"is not an image: it begins with {data[:16]!r}") from error


def as_rgb(image: Image.Image, orientation: Orientation = "stored") -> Image.Image:
    """Return a Pillow image in RGB, by the rules of `decode`."""
    if orientation == "upright":
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if image.mode != "I" or grey.max(initial=0) > 255:  # Pillow would clip all above 255 to white
            grey = (grey.clip(0, 65535) + 128) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # palettes with transparency in bytes
        return image.convert("RGB")


def _header(data: bytes) -> _Header:
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) > 33:
        width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
        is_plain = depth == 8 and colour in (0, 2) and b"tRNS" not in data[:4096]
        return _Header("png" if is_plain else "other", height, width)
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)
    return _Header("other", 0, 0)


def _jpeg_header(data: bytes) -> _Header:
    """Return the size that the first frame header tells; `other` for more or fewer than one or three 8-bit colours."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # fill bytes and markers without content
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            depth, height, width, colours = struct.unpack(">BHHB", data[at + 4 : at + 10])
            is_plain = depth == 8 and colours in (1, 3) and marker in (0xC0, 0xC1, 0xC2) and height > 0
            return _Header("jpeg" if is_plain else "other", height, width)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return _Header("other", 0, 0)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError("too many pixels", f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _by_simplejpeg(data: bytes, header: _Header, factor: int) -> Pixels:
    import simplejpeg  # an extra

    least = (-(-header.height // factor), -(-header.width // factor)) if factor > 1 else (0, 0)
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1], min_factor=1)
    return pixels


def _by_pillow(data: bytes, orientation: Orientation, factor: int) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            image = Image.open(io.BytesIO(data))
        with image:
            _check_size(image.width, image.height)
            if factor > 1:
                image.draft("RGB", (image.width // factor, image.height // factor))
            return np.array(as_rgb(image, orientation))
    except UnidentifiedImageError:
        raise BadImageError("not an image", f"is not an image: it begins with {data[:16]!r}") from None
    except Image.DecompressionBombError as error:
        raise BadImageError("too many pixels", str(error)) from error
    except PILLOW_ERRORS as error:
        if isinstance(error, BadImageError):
            raise
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise BadImageError(reason, f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG ends; torchvision fills what is missing with grey and says nothing."""
    return b"\xff\xd9" in data[-1024:]


def _by_torchvision(data: bytes, header: _Header) -> Pixels:
    decoder = torchvision_io.decode_png if header.kind == "png" else torchvision_io.decode_jpeg
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # of bytes, torch would warn that they are read-only
    image: torch.Tensor = decoder(encoded, torchvision_io.ImageReadMode.RGB)
    pixels: Pixels = image.permute(1, 2, 0).numpy()  # a view: the decoders write rows of pixels
    return pixels
