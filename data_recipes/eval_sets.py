"""The common evaluation sets, each in the layout and place that its YAML in configs/eval/ names.

    python data_recipes/eval_sets.py cifar10 food101 imagenet-r                   from the hub: the YAML's own hint
    python data_recipes/eval_sets.py --from torchvision cifar10 cifar100 pets     from the sets' own sites
    python data_recipes/eval_sets.py --from folder --source /data/imagenet/val imagenet1k
    python data_recipes/eval_sets.py --source /data/flickr30k-images flickr30k_karpathy
    contrastive eval --model runs/mine --data configs/eval/cifar10.yaml

Names are those of the YAML files. Run it in the folder in which you evaluate: their roots, data/eval/…, are relative.

**Source.** The hub: https://huggingface.co/clip-benchmark, 41 sets as webdataset, which the YAMLs' hints name; COCO's
and Flickr's JSON of Karpathy. torchvision: cifar10, cifar100, country211, dtd, fgvc_aircraft, flowers, food101, gtsrb,
mnist, pets, renderedsst2, stl10, svhn, whose test split is that of the benchmark. folder: ImageNet's validation set,
V2, A, O, R and Sketch, as their archives unpack: a folder a class. Each set's paper is the YAML's `reference`.

**Licence.** Each set has its own; most are for research alone. ImageNet's images may not be handed on, Flickr30k's have
to be asked for (--source is then the folder of the images).

**Size.** From 10 MB (MNIST) to 6.7 GB (ImageNet's validation set).

**Expected counts.** Those in the first line of each YAML; another count ends with status 1.

**Written.** The hub: what it holds. torchvision and folder: the layout of CLIP_benchmark (see docs/evaluation-data.md),
test/0.tar …, with the class names and templates of this package, into the YAML's root; JPEGs keep their bytes, what the
source holds as an array is PNG. --source of Karpathy's sets: links to the images. Steps: make, verify.
"""

import argparse
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from contrastive.config import read_yaml
from contrastive.errors import DataError
from contrastive.eval.datasets import open_dataset
from contrastive.eval.prompts import shipped
from contrastive.eval.spec import DatasetSpec
from contrastive.recipes.catalogue import Action, Steps, add_steps, follow, guarded, program, say, work
from contrastive.recipes.writing import MANIFEST, finished_folder, is_finished, write_classification, write_json

CONFIGS = Path(__file__).parents[1] / "configs" / "eval"
VERSION = 1
SHARD = 5_000  # images of a tar
LOOKED_AT = 16  # images that are decoded in the end
KEPT = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}  # by their ending; others become PNG
TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    "cifar10": ("CIFAR10", {"train": False}),
    "cifar100": ("CIFAR100", {"train": False}),
    "country211": ("Country211", {"split": "test"}),
    "dtd": ("DTD", {"split": "test"}),
    "fgvc_aircraft": ("FGVCAircraft", {"split": "test"}),
    "flowers": ("Flowers102", {"split": "test"}),
    "food101": ("Food101", {"split": "test"}),
    "gtsrb": ("GTSRB", {"split": "test"}),
    "mnist": ("MNIST", {"train": False}),
    "pets": ("OxfordIIITPet", {"split": "test"}),
    "renderedsst2": ("RenderedSST2", {"split": "test"}),
    "stl10": ("STL10", {"split": "test"}),
    "svhn": ("SVHN", {"split": "test"}),
}
FOLDERS = {  # whose folders are called 0, 1, …: torchvision's order of names would shift their labels
    "imagenet1k": False,
    "imagenet_sketch": False,
    "imagenet-a": False,
    "imagenet-o": False,
    "imagenet-r": False,
    "imagenetv2": True,
}
CLASSES = {"imagenetv2": "imagenet1k", "imagenet_sketch": "imagenet1k"}  # list of the package, where named otherwise
IMAGES = {"coco_karpathy": "val2014", "flickr30k_karpathy": "images", "flickr8k_karpathy": "images"}
PATHS = ("_image_files", "_images", "_samples", "samples")  # where torchvision's datasets hold their files


@dataclass(frozen=True)
class Labelled(Mapping[str, "str | bytes"]):
    """A sample of an image and its class, read when it is written: a set need not fit into memory."""

    number: int
    label: int
    image: "Path | Any"  # a file, or torchvision's dataset

    def __getitem__(self, name: str) -> str | bytes:
        """Return the key, the label in ASCII, or the image."""
        if name == "__key__":
            return f"s{self.number:07d}"
        return str(self.label) if name == "cls" else self._encoded()

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the members."""
        return iter(("__key__", self._extension, "cls"))

    def __len__(self) -> int:
        """Return how many there are."""
        return 3

    @property
    def _extension(self) -> str:
        return KEPT.get(self.image.suffix.lower(), "png") if isinstance(self.image, Path) else "png"

    def _encoded(self) -> bytes:
        if isinstance(self.image, Path) and self.image.suffix.lower() in KEPT:
            return self.image.read_bytes()
        content = io.BytesIO()
        picture = Image.open(self.image) if isinstance(self.image, Path) else self.image[self.number][0]
        picture.convert("RGB").save(content, "PNG")
        return content.getvalue()


def of_torchvision(name: str, cache: Path) -> list[Labelled]:
    """Return the test split of a set that torchvision downloads.

    Raises:
        DataError: it cannot be downloaded.
    """
    from torchvision import datasets  # seconds, which only those pay who ask for it

    kind, options = TORCHVISION[name]
    try:
        dataset = getattr(datasets, kind)(str(cache), download=True, **options)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name}: torchvision cannot download it into {cache} ({error})") from error
    files = next((getattr(dataset, held) for held in PATHS if hasattr(dataset, held)), None)
    if files is None:
        labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
        return [Labelled(number, int(label), dataset) for number, label in enumerate(labels)]
    if isinstance(files[0], tuple):
        return [Labelled(number, label, Path(path)) for number, (path, label) in enumerate(files)]
    labels = dataset._labels
    return [Labelled(number, label, Path(path)) for number, (path, label) in enumerate(zip(files, labels, strict=True))]


def of_folder(source: Path, classes: int, are_numbers: bool) -> list[Labelled]:
    """Return the images of a folder that holds one folder a class, in the order of the classes.

    Raises:
        DataError: there are not so many folders, or one is empty.
    """
    folders = [path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(folders) != classes or (are_numbers and {path.name for path in folders} != set(map(str, range(classes)))):
        kind = f"0 to {classes - 1}" if are_numbers else "such as n01440764"
        raise DataError(f"--source {source}: holds {len(folders)} class folders, not the {classes} ({kind}) of the set")
    folders.sort(key=(lambda path: int(path.name)) if are_numbers else (lambda path: path.name))
    found: list[Labelled] = []
    for label, folder in enumerate(folders):
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in KEPT)
        if not images:
            raise DataError(f"{folder}: holds no image")
        found += [Labelled(len(found) + place, label, path) for place, path in enumerate(images)]
    return found


def write(spec: DatasetSpec, samples: Sequence[Labelled], origin: str) -> str:
    """Write a set into its root; return what was written.

    Raises:
        DataError: the root holds something that is not ours, or labels and class names do not fit.
    """
    named = CLASSES.get(spec.name, spec.name)
    names, templates = shipped("classnames", named), shipped("templates", named)
    root, recipe = Path(spec.root), {"name": spec.name, "version": VERSION, "from": origin, "images": len(samples)}
    if max(sample.label for sample in samples) >= len(names):
        raise DataError(f"{spec.name}: has labels beyond its {len(names)} classes; is it another set?")
    if not is_finished(root, recipe):
        with finished_folder(root) as folder:
            write_classification(folder, samples, names, templates, math.ceil(len(samples) / SHARD))
            write_json(folder / MANIFEST, {"recipe": recipe})
    return f"{root}: {len(samples):,} images of {len(names)} classes"


def link(spec: DatasetSpec, source: Path) -> str:
    """Have the images of one of Karpathy's sets found where its YAML looks for them.

    Raises:
        DataError: there is no such folder, or another one in its place.
    """
    place = Path(spec.root) / IMAGES[spec.name]
    target = source / place.name if (source / place.name).is_dir() else source
    if not target.is_dir():
        raise DataError(f"--source {source}: no such folder")
    if place.exists() and not place.samefile(target):
        raise DataError(f"{place}: is there already, and is not {target}; remove one of them")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target.resolve(), place, target_is_directory=True)
    return f"{place} is {target}"


def expected_images(path: Path) -> int | None:
    """Return how many images a YAML's first lines speak of."""
    comments = " ".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    found = re.search(r"([\d,]+) images", comments)
    return int(found[1].replace(",", "")) if found else None


def verify(path: Path, spec: DatasetSpec) -> int:
    """Open a set as evaluation does, decode some of its images and count them; return 1 for another number of them."""
    dataset = open_dataset(spec)
    count, expected = len(dataset.images), expected_images(path)
    for number in range(0, count, max(1, count // LOOKED_AT)):
        dataset.image(number)
    of = "" if expected is None else f" of {expected:,}"
    say(f"{spec.name}: {count:,}{of} images, {len(dataset.classnames) or 'no'} classes, {len(dataset.texts):,} texts")
    return 0 if expected in (None, count) else 1


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps by name.

    Raises:
        DataError: an unknown set, or one that does not come from there.
    """
    paths = {name: CONFIGS / f"{name}.yaml" for name in options.names}
    for name, path in paths.items():
        if not path.is_file():
            raise DataError(
                f"{name}: there is no {path}; sets are {', '.join(sorted(p.stem for p in CONFIGS.glob('*')))}"
            )
        offered = {"torchvision": TORCHVISION, "folder": FOLDERS}.get(options.origin)
        if offered is not None and name not in offered:
            raise DataError(f"--from {options.origin}: {name} does not come from there; {', '.join(offered)} do")
    if options.origin == "folder" and (options.source is None or len(paths) != 1):
        raise DataError("--from folder: takes one set, and --source, the folder of its classes")
    specs = {name: DatasetSpec.from_dict(read_yaml(path), str(path)) for name, path in paths.items()}

    def make() -> list[Action]:
        return [action for spec in specs.values() for action in made(spec, options)]

    def verified() -> list[Action]:
        checks = [(name, partial(verify, paths[name], spec)) for name, spec in specs.items()]
        return [Action(f"# open {name} as evaluation does, and count its images", run, True) for name, run in checks]

    return {"make": make, "verify": verified}


def made(spec: DatasetSpec, options: argparse.Namespace) -> list[Action]:
    """Return what makes one set."""
    if options.origin == "torchvision":
        line = f"write {spec.root} from torchvision's {TORCHVISION[spec.name][0]}, kept in {options.cache}"
        return [work(line, lambda: write(spec, of_torchvision(spec.name, options.cache), "torchvision"))]
    if options.origin == "folder":
        classes = len(shipped("classnames", CLASSES.get(spec.name, spec.name)))
        line = f"write {spec.root} from {options.source}"
        return [work(line, lambda: write(spec, of_folder(options.source, classes, FOLDERS[spec.name]), "folder"))]
    linked = [] if options.source is None or spec.name not in IMAGES else [
        work(f"link {options.source} as {spec.root}/{IMAGES[spec.name]}", lambda: link(spec, options.source))
    ]  # fmt: skip
    is_there = spec.name in IMAGES and any(Path(spec.root).glob("dataset_*.json"))
    return linked if is_there and linked else [program("sh", "-c", str(spec.hint)), *linked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for another number of images, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of configs/eval/NAME.yaml")
    add_steps(parser, ("make", "verify"))
    parser.add_argument("--from", dest="origin", choices=("hub", "torchvision", "folder"), default="hub")
    parser.add_argument("--source", type=Path, metavar="DIR", help="of --from folder, or the images of Karpathy's sets")
    parser.add_argument("--cache", type=Path, default=Path("data/torchvision"), help="of torchvision's downloads")
    parser.add_argument("--dry-run", action="store_true", help="show the exact commands, and run nothing")
    options = parser.parse_args(arguments)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())
