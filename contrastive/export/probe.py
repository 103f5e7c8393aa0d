"""Images and captions that an export is compared on: built in, or of the user's own data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

SIZES = ((64, 64), (640, 480), (333, 500), (224, 224), (90, 17), (400, 401), (32, 48), (1024, 256))
EACH = 3  # images of a size
CAPTIONS = (
    "a photo of a cat",
    "Two dogs play in the snow, one of them barks.",
    "latin small letter a with diaeresis",
    "digit seven",
    "a",
    "",
    "   spaces   and\ttabs   ",
    "UPPER CASE, lower case, 12345 67.89 (brackets) [more] {and more}",
    "don't you'll we've it's",
    "a red bicycle leaning against a white wall in front of a small house near the sea " * 12,
    "naïve café über São Paulo",
    "一只猫 und ein Hund и собака",
)
MENDED = ("it&#39;s &amp; more", "â€œcurlyâ€\x9d quotes", "ﬁne ﬂight")  # what ftfy and html change: see `clean_share`


@dataclass(frozen=True)
class Probe:
    """RGB images and captions. `calibration` is more of both, apart from those that are compared."""

    images: Sequence[Image.Image]
    texts: Sequence[str]
    calibration_images: Sequence[Image.Image] = field(default_factory=tuple)
    calibration_texts: Sequence[str] = field(default_factory=tuple)


def built_in_probe() -> Probe:
    """Return images of many shapes and contents, and captions of many lengths and alphabets; always the same ones."""
    drawn = [_image(number, *SIZES[number % len(SIZES)]) for number in range(2 * EACH * len(SIZES))]
    half = EACH * len(SIZES)
    more = [f"{left}, {right}" for left in CAPTIONS[:4] for right in CAPTIONS[:8]]
    return Probe(drawn[:half], CAPTIONS, drawn[half:], more)


def _image(number: int, width: int, height: int) -> Image.Image:
    """Return smooth colours, edges and grain, as photographs have them."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)  # [height, width]
    angles, waves = draw.uniform(0, np.pi, (3, 3)), draw.uniform(1, 20, (3, 3))
    planes = [
        sum(
            np.sin(wave * (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi)
            for angle, wave in zip(*pair, strict=True)
        )
        for pair in zip(angles, waves, strict=True)
    ]
    pixels = 128 + 30 * np.stack(planes, -1) + draw.normal(0, draw.uniform(0, 25), (height, width, 3))
    top, left = (int(draw.integers(0, max(1, side // 2))) for side in (height, width))
    pixels[top : top + height // 3, left : left + width // 3] = draw.uniform(0, 255, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
