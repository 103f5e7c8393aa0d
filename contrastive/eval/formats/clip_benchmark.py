"""The CLIP_benchmark webdataset folder, as published: numbered tars, read by offset instead of as a stream.

ROOT/dataset_type.txt ("retrieval", "multilabel"; absent: classification), ROOT/SPLIT/nshards.txt and the tars
ROOT/SPLIT/{0..n-1}.tar, with members KEY.(webp|png|jpg|jpeg) and KEY.cls (ASCII integer), KEY.npy (0/1 vector of the
classes) or KEY.txt (captions, one a line); ROOT/classnames.txt and ROOT/zeroshot_classification_templates.txt.
https://github.com/LAION-AI/CLIP_benchmark, clip_benchmark/datasets/builder.py
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contrastive.data.tar import Member, key_and_extension, members
from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Caption, Content, Kind, Sample, decoded

IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")  # the order of preference in CLIP_benchmark
READABLE: tuple[Kind, ...] = ("classification", "multilabel", "retrieval")


@dataclass(frozen=True, slots=True)
class ImageMember:
    """Where one image's bytes lie in a tar."""

    path: str
    key: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Return shard and key, as error messages and galleries show them."""
        return f"{Path(self.path).name}: {self.key}"

    @property
    def stamp(self) -> str:
        """Return place and size."""
        return f"{self.offset}+{self.size}"

    def decode(self) -> Image.Image:
        """Return the decoded image; the tar is opened on each call, so that worker processes share no file position.

        Raises:
            DataError: the tar cannot be opened, or Pillow cannot read the bytes.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        return decoded(content, f"{self.path}: key {self.key!r}")


class ClipBenchmark:
    """The folder that CLIP_benchmark, DataComp and `clip_benchmark_export_wds` share."""

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the samples of ROOT/SPLIT in the order of the tars; see `samples.Format`."""
        kinds = kinds_to_read(kinds or (_own_kind(root),), READABLE, root)
        if not (root / split).is_dir():
            raise DataError(f"there is no folder {root / split}; set split to one of the folder's own")
        classnames = _lines(root / "classnames.txt", gaps=True)
        return Content(
            samples=read_samples(root / split, kinds, len(classnames)),
            kinds=kinds,
            classnames=classnames,
            templates=_lines(root / "zeroshot_classification_templates.txt"),
        )


def _own_kind(root: Path) -> Kind:
    """Return what dataset_type.txt says; "classification" where there is none, as in CLIP_benchmark."""
    path = root / "dataset_type.txt"
    said = path.read_text(encoding="utf-8-sig", errors="replace").strip() if path.is_file() else READABLE[0]
    for kind in READABLE:
        if said.lower() == kind:
            return kind
    raise ConfigError(f"{path} says {said!r}; what can be read: {', '.join(READABLE)}")


def _lines(path: Path, gaps: bool = False) -> tuple[str, ...]:
    """Return the lines of a text file of the folder, stripped; nothing where there is none.

    With `gaps`, an empty line inside stands for itself: a published folder has a class without a name
    (clevr_closest_object_distance), whose place counts.
    """
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except FileNotFoundError:
        return ()
    except ValueError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    if "" in lines and not gaps:
        raise DataError(f"{path}: line {lines.index('') + 1} is empty; remove it")
    return lines


def read_samples(folder: Path, kinds: Sequence[Kind], classes: int = 0) -> list[Sample]:
    """Return every sample of the split's tars, in their order, with the annotations asked for.

    Vectors of classes must have `classes` numbers; 0: as many as they like.

    Raises:
        DataError: nshards.txt, a tar, an image or an annotation is missing or damaged, or a key stands twice.
    """
    samples = []
    for number in range(_shard_count(folder)):
        path = folder / f"{number}.tar"
        if not path.is_file():
            raise DataError(
                f"there is no {path}, which {folder / 'nshards.txt'} promises; copy it or correct the count"
            )
        samples += _read_tar(path, kinds, classes)
    if not samples:
        raise DataError(f"{folder}: its tars hold no sample; write at least one")
    return samples


def _shard_count(folder: Path) -> int:
    path = folder / "nshards.txt"
    if not path.is_file():
        raise DataError(f"there is no {path}; write into it how many tars (0.tar, 1.tar, …) the folder holds")
    content = path.read_text(encoding="utf-8", errors="replace").strip()
    if not content.isascii() or not content.isdigit() or int(content) < 1:
        raise DataError(f"{path}: {content!r} must be a whole number of at least 1, the count of tars")
    return int(content)


def _read_tar(path: Path, kinds: Sequence[Kind], classes: int) -> list[Sample]:
    """Return the samples of one tar; members of one key may stand apart, a member may not stand twice."""
    groups: dict[str, dict[str, Member]] = {}
    for member in members(path):
        key, extension = key_and_extension(member.name)
        group = groups.setdefault(key, {})
        if extension in group:
            raise DataError(f"{path}: {member.name} stands twice; give every sample its own key")
        group[extension] = member
    with path.open("rb") as file:

        def content(key: str, extension: str, what: str) -> bytes:
            if extension not in groups[key]:
                raise DataError(
                    f"{path}: key {key!r} has no {what}; add a member {key}.{extension} or choose another task"
                )
            member = groups[key][extension]
            file.seek(member.offset)
            return file.read(member.size)

        return [_sample(path, key, group, content, kinds, classes) for key, group in groups.items()]


def _sample(
    path: Path,
    key: str,
    group: dict[str, Member],
    content: Callable[[str, str, str], bytes],
    kinds: Sequence[Kind],
    classes: int,
) -> Sample:
    extension = next((name for name in IMAGE_EXTENSIONS if name in group), None)
    if extension is None:
        raise DataError(f"{path}: key {key!r} has no image; it needs a member .{', .'.join(IMAGE_EXTENSIONS)}")
    image = ImageMember(str(path), key, group[extension].offset, group[extension].size)
    label = _label(path, key, content(key, "cls", "label")) if "classification" in kinds else -1
    labels = _labels(path, key, content(key, "npy", "vector of classes"), classes) if "multilabel" in kinds else ()
    captions = _captions(path, key, content(key, "txt", "caption")) if "retrieval" in kinds else ()
    return Sample(image, label, labels, captions)


def _text(path: Path, name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: {name} is not UTF-8 text; write it again as UTF-8") from None


def _label(path: Path, key: str, content: bytes) -> int:
    text = _text(path, f"{key}.cls", content).strip()
    if not text.isascii() or not text.removeprefix("-").isdigit():  # int() also reads "1_0" and other scripts
        raise DataError(f"{path}: {key}.cls: {text!r} must be a whole number, the index of the class")
    return int(text)


def _labels(path: Path, key: str, content: bytes, classes: int) -> tuple[int, ...]:
    wrong = DataError(f"{path}: {key}.npy must be a vector of 0 and 1, one number a class, as numpy.save writes it")
    try:
        vector = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise wrong from None
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or not np.isin(vector, (0, 1)).all():
        raise wrong
    if classes and len(vector) != classes:
        raise DataError(f"{path}: {key}.npy has {len(vector)} numbers and classnames.txt {classes} lines; mend one")
    return tuple(int(index) for index in vector.nonzero()[0])


def _captions(path: Path, key: str, content: bytes) -> tuple[Caption, ...]:
    lines = _text(path, f"{key}.txt", content).splitlines()
    captions = tuple(Caption(line) for line in lines if line.strip())
    if not captions:
        raise DataError(f"{path}: key {key!r} has an empty .txt; write at least one caption, one a line")
    return captions
