"""Are planted near-duplicates and leaked evaluation images found, and is nothing else called one?

    python benchmarks/dedup.py            # 3,000 scenes and 3,000 glyphs: about two minutes
    python benchmarks/dedup.py --quick    # 500 of each: under a minute

Two sets, 5 % of each planted, through `contrastive data dedup` as a user runs it, with its defaults:

- `scenes`: 128 to 400 pixels, coloured noise of several scales, shapes, and patches of scikit-learn's two photographs.
  One in ten has a sibling, which is no duplicate: the same ground with other shapes on it. Planted are copies
  re-encoded as JPEG (quality 30, 60, 90), halved, doubled, cropped (2 and 5 % of each side, off centre), brighter,
  darker, with more contrast, and with a watermark.
- `glyphs`: printed characters of 32 pixels, the hard case: an accent is all that tells two apart. Characters that no
  pixel tells apart (at most 2 grey levels) are left out. Planted are copies that keep the pixels: JPEG of quality 75
  and 90, doubled, brighter, darker. What a glyph loses when it is halved, cropped or stamped is as much as tells it
  from another; these kinds are planted in a second run, which is shown and not judged.
- `leaks`: from evaluation sets (a folder of scenes, a retrieval set of glyphs) images are put into the training shards:
  the same bytes, a PNG of the same pixels, a JPEG of quality 60 (glyphs: 75), half the size (scenes), twice the size.

A planted copy counts as found where it is in one group with what it was made of; precision counts whatever is dropped.
Exit status 1 where precision or recall of a judged set is below 0.95, or a leaked image is missed.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from pyarrow import parquet
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from trainers import ROOT

sys.path.append(str(ROOT / "data_recipes"))
import glyphs

from contrastive.cli.data import run
from contrastive.hashing import mix
from contrastive.recipes.fonts import draw_face, find_faces
from contrastive.recipes.writing import Sample, write_retrieval, write_shards

GOAL = 0.95
SHARE = 20  # one in so many is planted


def draws(seed: int, name: str, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1), a function of seed and name alone."""
    return mix("dedup benchmark", name, seed, np.arange(count)) / 2.0**64


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ground(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return coloured noise of several scales, and in every third image a patch of a photograph."""
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 7):
        cells = 2**octave
        noise = (draws(seed, f"octave {octave}", cells * cells * 3).reshape(cells, cells, 3) * 255).astype(np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)) / 2 ** (octave - 1)
    image = Image.fromarray(((total - total.min()) / np.ptp(total) * 255).astype(np.uint8))
    if seed % 3 == 0:
        photo = Image.fromarray(photographs()[seed // 3 % 2])
        at = draws(seed, "patch", 3)
        side = round(60 + 160 * at[2])
        left, top = round(at[0] * (photo.width - side)), round(at[1] * (photo.height - side))
        image.paste(photo.crop((left, top, left + side, top + side)).resize((width // 2, height // 2)), (width // 4, 0))
    return image


@cache
def photographs() -> list[np.ndarray]:
    """Return scikit-learn's two photographs, uint8 [427, 640, 3]."""
    return list(load_sample_images().images)


def scene(seed: int, shapes: int) -> Image.Image:
    """Return ground `seed` with shapes of the seed `shapes`."""
    at = draws(seed, "size", 2)
    image = ground(seed, (round(128 + 272 * at[0]), round(128 + 272 * at[1])))
    pen = ImageDraw.Draw(image)
    for number in range(2 + shapes % 4):
        x, y, w, h, kind, *colour = draws(shapes, f"shape {number}", 8)
        box = [x * 0.8 * image.width, y * 0.8 * image.height]
        box += [box[0] + (0.15 + 0.4 * w) * image.width, box[1] + (0.15 + 0.4 * h) * image.height]
        draw = pen.ellipse if kind < 0.5 else pen.rectangle
        draw(box, fill=tuple(int(255 * value) for value in colour))
    return image


def jpeg(quality: int) -> Callable[[Image.Image, int], bytes]:
    return lambda image, _: encoded(image.convert("RGB"), "JPEG", quality=quality)


def scaled(factor: float) -> Callable[[Image.Image, int], bytes]:
    def apply(image: Image.Image, _: int) -> bytes:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return encoded(image.resize(size, Image.Resampling.BICUBIC))

    return apply


def cropped(share: float) -> Callable[[Image.Image, int], bytes]:
    def apply(image: Image.Image, seed: int) -> bytes:
        left, top = draws(seed, "crop", 2) * share
        box = (left, top, 1 - share + left, 1 - share + top)
        return encoded(image.crop(tuple(round(v * s) for v, s in zip(box, 2 * image.size, strict=True))))

    return apply


def enhanced(kind: Callable[[Image.Image], Any], factor: float) -> Callable[[Image.Image, int], bytes]:
    return lambda image, _: encoded(kind(image.convert("RGB")).enhance(factor))


def watermarked(image: Image.Image, seed: int) -> bytes:
    image = image.convert("RGB")
    pen = ImageDraw.Draw(image, "RGBA")
    x, y = draws(seed, "watermark", 2) * (0.7 * image.width, 0.88 * image.height)
    pen.rectangle((x, y, x + 0.25 * image.width, y + 0.08 * image.height), fill=(255, 255, 255, 90))
    pen.text((x + 2, y + 1), "(c) photo.com", fill=(0, 0, 0, 160), font_size=max(5, 0.06 * image.height))
    return encoded(image)


Change = Callable[[Image.Image, int], bytes]
SCENES: dict[str, Change] = {
    "JPEG 30": jpeg(30),
    "JPEG 60": jpeg(60),
    "JPEG 90": jpeg(90),
    "half": scaled(0.5),
    "double": scaled(2),
    "crop 2 %": cropped(0.02),
    "crop 5 %": cropped(0.05),
    "brighter": enhanced(ImageEnhance.Brightness, 1.2),
    "darker": enhanced(ImageEnhance.Brightness, 0.8),
    "contrast": enhanced(ImageEnhance.Contrast, 1.25),
    "watermark": watermarked,
}
GLYPHS: dict[str, Change] = {
    "JPEG 75": jpeg(75),
    "JPEG 90": jpeg(90),
    "double": scaled(2),
    "brighter": SCENES["brighter"],
    "darker": SCENES["darker"],
}
LOST: dict[str, Change] = {name: SCENES[name] for name in ("JPEG 30", "half", "crop 2 %", "crop 5 %", "watermark")}
LEAKS: dict[str, Change] = {"PNG": lambda image, _: encoded(image, optimize=True), "double": scaled(2)}
LEAKED: dict[str, dict[str, Change]] = {
    "scenes": {**LEAKS, "JPEG 60": jpeg(60), "half": scaled(0.5)},
    "glyphs": {**LEAKS, "JPEG 75": jpeg(75)},
}


@dataclass
class Planted:
    """Samples to train on, and what each planted one was made of and how; `evaluation` are a set's own."""

    samples: list[Sample] = field(default_factory=list)
    made_of: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Found:
    """What a run of dedup found: by kind how many were planted and found, and what else was dropped."""

    planted: dict[str, int]
    found: dict[str, int]
    false: int
    dropped: int
    seconds: float

    @property
    def recall(self) -> float:
        """The share of what was planted that was found."""
        return sum(self.found.values()) / max(sum(self.planted.values()), 1)

    @property
    def precision(self) -> float:
        """The share of what was dropped that was planted."""
        return 1 - self.false / max(self.dropped, 1)


def distinct(count: int) -> list[tuple[str, Image.Image]]:
    """Return glyphs of which no two are alike, drawn by hash."""
    drawn = [glyph for face in find_faces(glyphs.FAMILIES) for glyph in draw_face(face, 32, glyphs.is_wanted)]
    drawn.sort(key=lambda glyph: int(mix("dedup glyph", glyphs.key_of(glyph))))
    rows = np.zeros((count, 32 * 32), np.float32)
    found: list[tuple[str, Image.Image]] = []
    for glyph in drawn:
        row = glyph.pixels.ravel().astype(np.float32)
        if not len(found) or np.square(rows[: len(found)] - row).mean(1).min() > glyphs.ALIKE**2:
            rows[len(found)] = row
            found.append((glyphs.key_of(glyph), Image.fromarray(glyph.pixels)))
        if len(found) == count:
            break
    return found


def scenes(count: int) -> list[tuple[str, Image.Image]]:
    """Return scenes; every tenth has the ground of the one before it, and other shapes."""
    return [(f"scene{n:05d}", scene(n - 1 if n % 10 == 9 else n, n)) for n in range(count)]


def with_copies(pictures: Sequence[tuple[str, Image.Image]], changes: Mapping[str, Change], kind: str) -> Planted:
    """Return pictures, of which one in SHARE is a changed copy of another, in an order by hash."""
    names, planted = list(changes), Planted()
    copies = len(pictures) // (SHARE - 1)
    for at, (key, image) in enumerate(pictures):
        suffix, content = ("png", encoded(image)) if kind == "glyphs" else ("jpg", jpeg(92)(image, 0))
        planted.samples.append({"__key__": key, suffix: content, "txt": key})
        if at < copies:
            name = names[at % len(names)]
            content = changes[name](image, at)
            suffix = "jpg" if content[:2] == b"\xff\xd8" else "png"
            planted.samples.append({"__key__": f"copy-{key}", suffix: content, "txt": key})
            planted.made_of[f"copy-{key}"] = (key, name)
    planted.samples.sort(key=lambda sample: int(mix("dedup order", str(sample["__key__"]))))
    return planted


def with_leaks(pictures: Sequence[tuple[str, Image.Image]], kind: str, folder: Path) -> tuple[Planted, Path]:
    """Write an evaluation set of a fifth of the pictures; return the rest with some of the set, and the set's path."""
    count = len(pictures) // 5
    tested, planted = pictures[:count], Planted()
    contents = {key: encoded(image) if kind == "glyphs" else jpeg(92)(image, 0) for key, image in pictures}
    suffix = "png" if kind == "glyphs" else "jpg"
    if kind == "glyphs":
        write_retrieval(folder, [{"__key__": key, "png": contents[key], "txt": key} for key, _ in tested])
    else:
        folder.mkdir(parents=True)
        for key, _ in tested:
            (folder / f"{key}.jpg").write_bytes(contents[key])
    planted.samples = [{"__key__": key, suffix: contents[key], "txt": key} for key, _ in pictures[count:]]
    ways = ["bytes", *LEAKED[kind]]
    for at, (key, _) in enumerate(tested[: max(count // 4, len(ways))]):
        way = ways[at % len(ways)]
        stored = Image.open(io.BytesIO(contents[key]))
        content = contents[key] if way == "bytes" else LEAKED[kind][way](stored, at)
        ending = "jpg" if content[:2] == b"\xff\xd8" else "png"
        planted.samples.append({"__key__": f"leak-{key}", ending: content, "txt": key})
        planted.made_of[f"leak-{key}"] = (key, way)
    planted.samples.sort(key=lambda sample: int(mix("dedup order", str(sample["__key__"]))))
    return planted, folder


def deduplicated(planted: Planted, folder: Path, options: Sequence[str], leaks: bool = False) -> Found:
    """Run the command on planted samples; return what it found."""
    (folder / "shards").mkdir(parents=True)
    write_shards(folder / "shards", planted.samples, 2)
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        run(["dedup", str(folder / "shards"), "--out", str(folder / "out"), *options])
    seconds = time.monotonic() - started
    rows = parquet.read_table(folder / "out" / "groups.parquet").to_pylist()
    group = {row["key"]: row["representative_key"] for row in rows if row["reason"].startswith("leak") == leaks}
    by_kind: dict[str, int] = defaultdict(int)
    found: dict[str, int] = defaultdict(int)
    right = set()
    for copy, (key, kind) in planted.made_of.items():
        by_kind[kind] += 1
        dropped = _leak_dropped(group, copy) if leaks else _dropped(group, copy, key)
        found[kind] += dropped is not None
        right |= {dropped} if dropped is not None else set()
    return Found(dict(by_kind), dict(found), len(set(group) - right), len(group), seconds)


def _dropped(group: Mapping[str, str], copy: str, key: str) -> str | None:
    """Return which of the two was dropped for the other, or for the same third one."""
    if group.get(copy, copy) != group.get(key, key):
        return None
    return copy if copy in group else key


def _leak_dropped(group: Mapping[str, str], copy: str) -> str | None:
    return copy if copy in group else None


def table(results: Mapping[str, Found]) -> Table:
    grid = Table("set", "planted", "found", "recall", "precision", "falsely dropped", "seconds", "missed, by kind")
    for name, one in results.items():
        missed = {kind: count - one.found[kind] for kind, count in one.planted.items() if count > one.found[kind]}
        said = ", ".join(f"{kind} {count}/{one.planted[kind]}" for kind, count in missed.items()) or "none"
        planted, found = sum(one.planted.values()), sum(one.found.values())
        figures = (f"{one.recall:.3f}", f"{one.precision:.3f}", str(one.false), f"{one.seconds:.1f}")
        grid.add_row(name, str(planted), str(found), *figures, said)
    return grid


def measured(count: int, options: Sequence[str], folder: Path) -> dict[str, Found]:
    results = {}
    pictures = {"scenes": scenes(count), "glyphs": distinct(count)}
    for name, changes in (("scenes", SCENES), ("glyphs", GLYPHS)):
        results[name] = deduplicated(with_copies(pictures[name], changes, name), folder / name, options)
    lost = with_copies(pictures["glyphs"], LOST, "glyphs")
    results["glyphs, detail lost (not judged)"] = deduplicated(lost, folder / "lost", options)
    for name in ("scenes", "glyphs"):
        planted, test = with_leaks(pictures[name], name, folder / f"test-{name}")
        against = [*options, "--against", str(test)]
        results[f"leaks of {name}"] = deduplicated(planted, folder / f"leaks-{name}", against, leaks=True)
    return results


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 images of each set")
    parser.add_argument("--images", type=int, metavar="N", help="of each set (3,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("options", nargs="*", help="of contrastive data dedup, after --")
    given = parser.parse_args()
    count = given.images or (800 if given.quick else 3000)
    with tempfile.TemporaryDirectory() as folder:
        results = measured(count, given.options, Path(folder))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table(results))
    judged = [results["scenes"], results["glyphs"]]
    precision, recall = min(one.precision for one in judged), min(one.recall for one in judged)
    leaks = min(one.recall for name, one in results.items() if name.startswith("leaks"))
    if given.json:
        said = {name: {**vars(one), "recall": one.recall, "precision": one.precision} for name, one in results.items()}
        given.json.write_text(json.dumps(said, indent=1) + "\n")
    console.print(f"precision={precision:.4f} recall={recall:.4f} leaks_found={leaks:.4f}", highlight=False)
    return 0 if min(precision, recall) >= GOAL and leaks == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
