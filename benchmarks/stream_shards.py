"""Webdataset tars of real JPEGs in two sizes: `orig`, about 500 x 375, and `r256`, shorter side 256, quality 95."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SHARDS, SAMPLES, VERSION = 10, 100, 2
SUBJECTS = ("a temple under a grey sky", "a flower against dark leaves", "two people in front of an old house", "a dog")


def make(folder: Path, photos: Path | None) -> dict[str, Path]:
    """Return the folders of both sizes, written once; `photos` holds JPEGs, None cuts scikit-learn's."""
    name = "sklearn" if photos is None else hashlib.blake2b(str(photos.resolve()).encode(), digest_size=4).hexdigest()
    made = folder / f"{name}-{VERSION}"
    if not made.is_dir():
        draft = made.with_name(made.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        for kind in ("orig", "r256"):
            (draft / kind).mkdir(parents=True)
            images = _cut(kind) if photos is None else _read(photos, kind)
            for number in range(SHARDS):
                _write(draft / kind / f"{number:05d}.tar", number, [next(images) for _ in range(SAMPLES)])
        draft.rename(made)
    return {kind: made / kind for kind in ("orig", "r256")}


def _read(photos: Path, kind: str) -> Iterator[bytes]:
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"--folder {photos}: holds no .jpg or .jpeg")
    while True:
        for path in paths:
            data = path.read_bytes()
            yield data if kind == "orig" else _smaller(data)


def _smaller(data: bytes) -> bytes:
    """Return what img2dataset makes of an image with `keep_ratio` at 256."""
    with Image.open(io.BytesIO(data)) as image:
        scale = 256 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        return _encode(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), 95)


def _cut(kind: str) -> Iterator[bytes]:
    """Yield crops of two photographs, with grain that makes the files as large as ImageNet's: 109 and 42 kB."""
    draw, photos = np.random.default_rng(0), [Image.fromarray(one) for one in load_sample_images().images]
    width, height, grain = (500, 375, 6.7) if kind == "orig" else (341, 256, 2.0)
    for index in range(10**9):
        photo = photos[index % len(photos)]
        share = draw.uniform(0.55, 1.0)
        w, h = int(photo.width * share), int(photo.height * share)
        left, top = int(draw.integers(0, photo.width - w + 1)), int(draw.integers(0, photo.height - h + 1))
        crop = photo.crop((left, top, left + w, top + h)).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(crop) + draw.normal(0, grain, (height, width, 1))
        yield _encode(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), 95)


def _encode(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def _write(path: Path, number: int, images: list[bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, image in enumerate(images):
            text = f"A photo of {SUBJECTS[index % len(SUBJECTS)]}, number {number * SAMPLES + index}, taken by hand"
            about = json.dumps({"caption": text, "key": f"{number:05d}{index:04d}"})
            for extension, data in (("jpg", image), ("txt", text.encode()), ("json", about.encode())):
                member = tarfile.TarInfo(f"{number:05d}{index:04d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
