"""Pictures that look different from each other, copies that look the same, and what is known of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from contrastive.errors import DataError
from contrastive.recipes.curation.signatures import OfPictures, Records, Wanted
from tests import toys

SIZE = (160, 120)  # of the pictures of `write_copied`


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Return clouds of colour with two ellipses on them."""
    draw = np.random.default_rng(seed)
    clouds = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(clouds)
    for _ in range(2):
        x, y = draw.uniform(0, 0.6, 2) * size
        box = (x, y, x + 0.3 * size[0], y + 0.3 * size[1])
        pen.ellipse(box, fill=tuple(draw.integers(0, 256, 3).tolist()))
    return clouds


def jpeg(image: Image.Image, quality: int = 60) -> bytes:
    return toys.encode(np.asarray(image), "JPEG", quality=quality)


def png(image: Image.Image) -> bytes:
    return toys.encode(np.asarray(image))


def brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.15)


def cropped(image: Image.Image, share: float = 0.05) -> Image.Image:
    width, height = image.size
    return image.crop((round(share * width), 0, width, round((1 - share) * height)))


def write(folder: Path, samples: Mapping[str, tuple[bytes, str]]) -> Path:
    """Write one shard of encoded images and captions."""
    members = []
    for key, (image, caption) in samples.items():
        ending = "jpg" if image[:2] == b"\xff\xd8" else "png"
        members += [(f"{key}.{ending}", image), (f"{key}.txt", caption.encode())]
    toys.write_tar(folder / "0.tar", members)
    return folder


def write_copied(folder: Path) -> Path:
    """Write six pictures and copies of three: the same bytes, a smaller JPEG, a brighter and larger one."""
    images = [picture(seed, SIZE) for seed in range(6)]
    samples = {f"p{at}": (png(image), f"picture {at}") for at, image in enumerate(images)}
    samples["same"] = (png(images[0]), "other words")
    samples["small"] = (jpeg(images[1].resize((80, 60))), "picture 1")
    samples["large"] = (png(brighter(images[2]).resize((320, 240))), "picture 2")
    samples["broken"] = (b"no image", "nothing")
    return write(folder, samples)


def page(*strokes: tuple[int, int, int, int]) -> Image.Image:
    """Return a white page of 64 pixels with black strokes."""
    paper = Image.new("RGB", (64, 64), "white")
    for stroke in strokes:
        ImageDraw.Draw(paper).line(stroke, fill="black", width=4)
    return paper


class Shown:
    """A picture in memory; None is broken."""

    def __init__(self, image: Image.Image | None) -> None:
        self.image, self.name = image, "shown"

    def decode(self) -> Image.Image:
        if self.image is None:
            raise DataError("broken")
        return self.image


def records_of(images: Sequence[Image.Image]) -> Records:
    """Return what the looks of images are."""
    return OfPictures([Shown(image) for image in images], Wanted(None, looks=True))((0, len(images)))
