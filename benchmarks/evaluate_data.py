"""What `evaluate.py` evaluates: JPEGs with classes and five captions each, and an open_clip model with random weights.

Both sides read the same tars; CLIP_benchmark needs a folder a task, so the second one links to the first one's tars.
"""

import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SHARDS, VERSION = 4, 1
SIZE = (500, 375)
LOOKS = ("red", "grey", "old", "small", "wooden", "broken", "shiny", "painted", "empty", "wet")
THINGS = ("temple", "flower", "roof", "leaf", "stone", "gate", "petal", "lantern", "stair", "garden")
CLASSES = tuple(f"{look} {thing}" for look, thing in itertools.product(LOOKS, THINGS))
TEMPLATES = (
    "itap of a {c}.", "a bad photo of the {c}.", "a origami {c}.", "a photo of the large {c}.", "a {c} in a game.",
    "art of the {c}.", "a photo of the small {c}.",
)  # fmt: skip
CAPTIONS = (
    "A {c} behind a low wall with the number {n} on it.",
    "Somebody took picture {n} of a {c} on a cloudy day.",
    "There is a {c} next to a path that leads to house {n}.",
    "a close view of a {c}, exhibit {n}",
    "Two people look at the {c} that is shown on postcard {n} of the series.",
)


class Data(NamedTuple):
    """Two folders in CLIP_benchmark's layout over the same tars, and our one description of both tasks."""

    classification: Path
    retrieval: Path
    yamls: dict[str, Path]  # by task; `both`: one pass for the two


def make(folder: Path, count: int, classes: int = len(CLASSES)) -> Data:
    """Return the data set of `count` JPEGs of so many classes, written once."""
    made = folder / f"{count}-{classes}-{VERSION}"
    if not made.is_dir():
        draft = made.with_name(made.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        _write(draft, count, CLASSES[:classes])
        draft.rename(made)
    data = Data(made / "classification", made / "retrieval", {})
    tasks = {"zeroshot": "[zeroshot]", "retrieval": "[retrieval]", "both": "[zeroshot, retrieval]"}
    for name, names in tasks.items():
        path = made / f"{name}.yaml"
        path.write_text(f"name: photos\nroot: {data.classification}\ntasks: {names}\n")
        data.yamls[name] = path
    return data


def _write(root: Path, count: int, classes: Sequence[str]) -> None:
    for name in ("classification", "retrieval"):
        (root / name).mkdir(parents=True)
    (root / "classification" / "classnames.txt").write_text("\n".join(classes) + "\n")
    (root / "classification" / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (root / "retrieval" / "dataset_type.txt").write_text("retrieval")
    (root / "retrieval" / "test").symlink_to(Path("..") / "classification" / "test")
    tars = root / "classification" / "test"
    tars.mkdir()
    (tars / "nshards.txt").write_text(f"{SHARDS}\n")
    samples = list(enumerate(_photographs(count, len(classes))))
    for shard in range(SHARDS):
        with tarfile.open(tars / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (image, label) in samples[shard * count // SHARDS : (shard + 1) * count // SHARDS]:
                captions = "\n".join(text.format(c=classes[label], n=number) for text in CAPTIONS)
                for extension, content in (("jpg", image), ("cls", f"{label}".encode()), ("txt", captions.encode())):
                    member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _photographs(count: int, classes: int) -> Iterator[tuple[bytes, int]]:
    """Yield crops of scikit-learn's two photographs as JPEG of 500 x 375, each with a class at random."""
    draw, photos = np.random.default_rng(0), [Image.fromarray(one) for one in load_sample_images().images]
    for index in range(count):
        photo, share = photos[index % len(photos)], draw.uniform(0.4, 1.0)
        width, height = int(photo.width * share), int(photo.height * share)
        left = int(draw.integers(0, photo.width - width + 1))
        top = int(draw.integers(0, photo.height - height + 1))
        crop = photo.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.BICUBIC)
        content = io.BytesIO()
        crop.save(content, "JPEG", quality=92)
        yield content.getvalue(), int(draw.integers(classes))


def make_model(folder: Path, name: str) -> Path:
    """Return the folder of an open_clip model with random weights, written once."""
    made = folder / f"{name}-{VERSION}"
    if not made.is_dir():
        import open_clip  # heavy, and needed once
        import torch
        from safetensors.torch import save_file

        draft = made.with_name(made.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        torch.manual_seed(0)
        described = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
        (draft / "open_clip_config.json").write_text(json.dumps(described))
        weights = open_clip.create_model(name).state_dict()
        save_file({key: value.contiguous() for key, value in weights.items()}, draft / "open_clip_model.safetensors")
        draft.rename(made)
    return made
