"""A table of JPEGs, each a file of its own: 344 to 640 pixels wide, about 70 kB, or the photographs of a folder."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from trainers import BenchmarkError

VERSION = 2
SUBJECTS = ("a temple under a grey sky", "a flower against dark leaves")
GRAIN = 6.0  # with which the files are as large as photographs are


def make(folder: Path, count: int, photos: Path | None, names: int = 1) -> Path:
    """Return a CSV of images and captions; the images of scikit-learn's photographs are written once.

    Each of them stands there under so many `names`: files that cost no time to make, and as much to pack.
    """
    if photos is not None:
        return _listed(folder, count, photos)
    made = folder / f"sklearn-{count}x{names}-{VERSION}"
    if not made.is_dir():
        draft = made.with_name(made.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for number, content in zip(range(count), cut(), strict=False):
            (draft / f"{number:06d}.jpg").write_bytes(content)
        for number in range(count, count * names):
            os.link(draft / f"{number % count:06d}.jpg", draft / f"{number:06d}.jpg")
        _write(draft / "table.csv", [f"{number:06d}.jpg" for number in range(count * names)])
        draft.rename(made)
    return made / "table.csv"


def cut() -> Iterator[bytes]:
    """Yield crops of two photographs without end, of 344 to 640 by 258 to 480 pixels, quality 92."""
    draw, photos = np.random.default_rng(0), [Image.fromarray(one) for one in load_sample_images().images]
    for index in range(10**9):
        photo = photos[index % len(photos)]
        share = draw.uniform(0.55, 1.0)
        w, h = int(photo.width * share), int(photo.height * share)
        left, top = int(draw.integers(0, photo.width - w + 1)), int(draw.integers(0, photo.height - h + 1))
        width = int(draw.integers(344, 641))
        size = (width, round(width * 0.75))
        crop = photo.crop((left, top, left + w, top + h)).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(crop) + draw.normal(0, GRAIN, (size[1], size[0], 1))
        content = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=92)
        yield content.getvalue()


def _listed(folder: Path, count: int, photos: Path) -> Path:
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if not found:
        raise BenchmarkError(f"--images {photos}: holds no .jpg or .jpeg")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "given.csv", [str(path.resolve()) for path in found])
    return folder / "given.csv"


def _write(table: Path, names: list[str]) -> None:
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption"))
        rows.writerows((name, f"{SUBJECTS[n % 2]}, number {n}, taken by hand") for n, name in enumerate(names))
