"""Pictures of coloured shapes, and the five small datasets that parity is measured on; the same bytes everywhere.

Only whole numbers and the raw bits of numpy's Philox are used, whose stream numpy promises to keep.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 210),
    "yellow": (215, 205, 50),
    "white": (235, 235, 235),
    "pink": (225, 120, 190),
}
SHAPES = ("disc", "box", "cross", "ring", "bar")
WORDS = ("a", "and", "left", "right", "of", "picture", "photo", "the", "is", "next", "to", "on", "beside", "single")
TEMPLATES = ("a {c}", "a picture of a {c}", "the {c}")
NOISE = 46  # levels of 255; so much that a small model errs
Thing = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class Scene:
    """What a picture shows, from left to right."""

    things: tuple[Thing, ...]

    def captions(self) -> list[str]:
        """Return what can truly be said of it."""
        names = [" ".join(thing) for thing in self.things]
        if len(names) == 1:
            return [f"a {names[0]}", f"a picture of a {names[0]}", f"a single {names[0]}"]
        left, right = names
        return [
            f"a {left} left of a {right}",
            f"a {right} right of a {left}",
            f"the {left} is on the left and the {right} is on the right",
            f"a {left} next to a {right} on the right",
            f"a photo of a {right} beside a {left} on the left",
        ]


class Draw:
    """Whole numbers from the raw bits of Philox."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.Philox(seed)

    def below(self, count: int) -> int:
        return int(self.bits.random_raw() % count)

    def one(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def noise(self, shape: tuple[int, ...], most: int) -> np.ndarray:
        raw = self.bits.random_raw(int(np.prod(shape))).reshape(shape)
        return (raw % np.uint64(2 * most + 1)).astype(np.int64) - most

    def thing(self) -> Thing:
        return self.one(tuple(COLOURS)), self.one(SHAPES)

    def scene(self, things: int) -> Scene:
        return Scene(tuple(self.thing() for _ in range(things)))


def pixels(scene: Scene, draw: Draw, side: int = 32, noise: int = NOISE) -> np.ndarray:
    """Return uint8 [side, side + 0..11, 3]."""
    height, width = side, side + draw.below(12)
    canvas = np.full((height, width, 3), 60 + draw.below(80), np.int64)
    count = len(scene.things)
    for place, (colour, shape) in enumerate(scene.things):
        radius = side * 5 // (16 if count == 1 else 24) + draw.below(3)
        middle = width * (2 * place + 1) // (2 * count) + draw.below(5) - 2
        canvas[_mask(shape, height, width, (height // 2 + draw.below(9) - 4, middle), radius)] = COLOURS[colour]
    return (canvas + draw.noise(canvas.shape, noise)).clip(0, 255).astype(np.uint8)


def _mask(shape: str, height: int, width: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    down, right = np.abs(np.arange(height) - centre[0])[:, None], np.abs(np.arange(width) - centre[1])[None]
    square, distance = np.maximum(down, right) <= radius, down**2 + right**2
    masks = {
        "disc": distance <= radius**2,
        "ring": (distance <= radius**2) & (distance >= (radius * 3 // 5) ** 2),
        "box": square,
        "cross": square & (np.minimum(down, right) <= radius // 3),
        "bar": square & (down <= radius // 3),
    }
    return masks[shape]


def png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def classes() -> list[str]:
    """Return the thirty classes of the classification set; the last has no picture."""
    return [" ".join(pair) for pair in itertools.product(COLOURS, SHAPES)]


def write_all(root: Path) -> Path:
    """Write the datasets into `root`."""
    write_classification(root / "classification")
    write_multilabel(root / "multilabel")
    write_retrieval(root / "retrieval")
    write_sugar_crepe(root / "sugar_crepe")
    write_winoground(root / "winoground")
    return root


def write_classification(root: Path, count: int = 160) -> None:
    """Single shapes in much noise, unbalanced: the earlier a class, the more pictures."""
    draw, names = Draw(1), classes()[:-1]
    weighed = [label for label in range(len(names)) for _ in range(len(names) + 2 - label)]
    samples = []
    for _ in range(count):
        label = weighed[draw.below(len(weighed))]
        colour, shape = names[label].split()
        samples.append((png(pixels(Scene(((colour, shape),)), draw, noise=4 * NOISE)), "cls", str(label).encode()))
    _write_folder(root, samples, classes())


def write_multilabel(root: Path, count: int = 70) -> None:
    """Two shapes a picture; a class is a colour or a shape."""
    draw, names = Draw(2), [*COLOURS, *SHAPES]
    samples = []
    for _ in range(count):
        scene = draw.scene(2)
        present = np.array([int(any(name in thing for thing in scene.things)) for name in names])
        content = io.BytesIO()
        np.save(content, present)
        samples.append((png(pixels(scene, draw)), "npy", content.getvalue()))
    _write_folder(root, samples, names, kind="multilabel")


def write_retrieval(root: Path, count: int = 80) -> None:
    """One to five captions a picture; no caption stands twice."""
    samples = [
        (png(picture), "txt", "\n".join(captions).encode()) for picture, captions in captioned(count, Draw(3), most=5)
    ]
    _write_folder(root, samples, kind="retrieval")


def captioned(count: int, draw: Draw, most: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield pictures with one to `most` captions, of scenes that differ."""
    seen: set[Scene] = set()
    while len(seen) < count:
        scene = draw.scene(2)
        if scene.things[0] == scene.things[1] or scene in seen:
            continue
        seen.add(scene)
        captions = scene.captions()
        first = draw.below(len(captions))
        yield pixels(scene, draw), (captions[first:] + captions[:first])[: 1 + draw.below(most)]


def swapped(draw: Draw, count: int) -> Iterator[tuple[Scene, Scene]]:
    """Yield scenes and their twins with the colours exchanged; no two of one caption."""
    seen: set[Scene] = set()
    while len(seen) < 2 * count:
        scene = draw.scene(2)
        (one, first), (other, second) = scene.things
        twin = Scene(((other, first), (one, second)))
        if one == other or first == second or {scene, twin} & seen:
            continue
        seen |= {scene, twin}
        yield scene, twin


def write_sugar_crepe(root: Path, count: int = 60) -> None:
    """ROOT/swap_att.json and ROOT/val2017, as published."""
    (root / "val2017").mkdir(parents=True)
    draw, entries = Draw(4), {}
    for number, (scene, twin) in enumerate(swapped(draw, count)):
        (root / "val2017" / f"{number:04d}.png").write_bytes(png(pixels(scene, draw)))
        caption, negative = scene.captions()[0], twin.captions()[0]
        entries[str(number)] = {"filename": f"{number:04d}.png", "caption": caption, "negative_caption": negative}
    (root / "swap_att.json").write_text(json.dumps(entries))


def write_winoground(root: Path, count: int = 60) -> None:
    """ROOT/examples.jsonl and ROOT/images, as published."""
    (root / "images").mkdir(parents=True)
    draw, lines = Draw(5), []
    for number, pair in enumerate(swapped(draw, count)):
        entry: dict[str, object] = {"id": number, "tag": "Adjective", "collapsed_tag": "Object"}
        for side, scene in enumerate(pair):
            (root / "images" / f"ex_{number}_img_{side}.png").write_bytes(png(pixels(scene, draw)))
            entry |= {f"image_{side}": f"ex_{number}_img_{side}", f"caption_{side}": scene.captions()[0]}
        lines.append(json.dumps(entry))
    (root / "examples.jsonl").write_text("\n".join(lines) + "\n")


def _write_folder(
    root: Path, samples: Sequence[tuple[bytes, str, bytes]], names: Sequence[str] = (), kind: str | None = None
) -> None:
    """Write a CLIP_benchmark folder of two tars."""
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text("2\n")
    if kind is not None:
        (root / "dataset_type.txt").write_text(kind)
    if names:
        (root / "classnames.txt").write_text("\n".join(names) + "\n")
        (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    half = -(-len(samples) // 2)
    for shard in range(2):
        with tarfile.open(root / "test" / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (image, extension, annotation) in enumerate(samples[shard * half : (shard + 1) * half]):
                for ending, content in (("png", image), (extension, annotation)):
                    member = tarfile.TarInfo(f"s{shard * half + number:07d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
