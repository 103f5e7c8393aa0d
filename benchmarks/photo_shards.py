"""Webdataset tars of crops of scikit-learn's two photos, JPEG of 256 x 256: `photo_shards.py FOLDER`."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SHARDS, SAMPLES, SIDE = 8, 256, 256
WORDS = ("temple", "flower")  # what the two photos show


def main(folder: Path) -> None:
    """Write the tars, all or none."""
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    draw = np.random.default_rng(0)
    unfinished = folder.with_name(folder.name + ".tmp")
    unfinished.mkdir(parents=True, exist_ok=True)
    for number in range(SHARDS):
        with tarfile.open(unfinished / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(SAMPLES):
                which = index % len(photos)
                image, where = crop(photos[which], draw)
                text = f"a photo of a {WORDS[which]}, {where}"
                for extension, data in (("jpg", image), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:02d}{index:05d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    sizes = {f"{number:05d}.tar": SAMPLES for number in range(SHARDS)}
    (unfinished / "sizes.json").write_text(json.dumps(sizes))
    unfinished.rename(folder)


def crop(photo: Image.Image, draw: np.random.Generator) -> tuple[bytes, str]:
    """Return a random square crop as JPEG, and words for where it lies."""
    side = int(draw.integers(200, 420))
    left, top = int(draw.integers(0, photo.width - side)), int(draw.integers(0, photo.height - side))
    across = "left" if left + side / 2 < photo.width / 2 else "right"
    up = "upper" if top + side / 2 < photo.height / 2 else "lower"
    content = io.BytesIO()
    photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).save(content, "JPEG", quality=88)
    return content.getvalue(), f"{up} {across} part"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
