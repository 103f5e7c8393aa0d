"""The CLIP_benchmark webdataset folder, as published: numbered tars, read by offset instead of as a stream.

ROOT/dataset_type.txt ("retrieval", "multilabel"; absent: classification), ROOT/SPLIT/nshards.txt and the tars
ROOT/SPLIT/{0..n-1}.tar, with members KEY.(webp|png|jpg|jpeg) and KEY.cls (ASCII integer) or
KEY.txt (captions, one a line).
"""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from contrastive.data.tar import Member, key_and_extension, members
from contrastive.errors import DataError

IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")  # the order of preference in CLIP_benchmark


@dataclass(frozen=True, slots=True)
class ImageMember:
    """Where one image's bytes lie."""

    path: str
    key: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Return shard and key, as error messages and galleries show them."""
        return f"{Path(self.path).name}: {self.key}"

    def decode(self) -> Image.Image:
        """Return the decoded image; the tar is opened on each call, so that worker processes share no file position.

        Raises:
            DataError: Pillow cannot read the bytes.
        """
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        # Pillow's plugins raise many types on damaged bytes; whichever it is, the remedy is the same.
        except (OSError, ValueError, SyntaxError, IndexError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.path}: the image of key {self.key!r} cannot be read ({error}); replace it"
            ) from None
        return image


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the folder; label -1 and no captions where they were not asked for."""

    image: ImageMember
    label: int = -1
    captions: tuple[str, ...] = ()


def read_folder_type(root: Path) -> str:
    """Return what dataset_type.txt says; "classification" where there is none, as in CLIP_benchmark."""
    path = root / "dataset_type.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else "classification"


def read_samples(folder: Path, *, labels: bool, captions: bool) -> list[Sample]:
    """Return every sample of the split's tars, in their order, with the annotations asked for.

    Raises:
        DataError: nshards.txt, a tar, an image, a label or a caption is missing or damaged, or a key stands twice.
    """
    samples = []
    for number in range(_shard_count(folder)):
        path = folder / f"{number}.tar"
        if not path.is_file():
            raise DataError(
                f"there is no {path}, which {folder / 'nshards.txt'} promises; copy it or correct the count"
            )
        samples += _read_tar(path, labels=labels, captions=captions)
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


def _read_tar(path: Path, *, labels: bool, captions: bool) -> list[Sample]:
    """Return the samples of one tar; members of one key may stand apart, a member may not stand twice."""
    groups: dict[str, dict[str, Member]] = {}
    for member in members(path):
        key, extension = key_and_extension(member.name)
        group = groups.setdefault(key, {})
        if extension in group:
            raise DataError(f"{path}: {member.name} stands twice; give every sample its own key")
        group[extension] = member
    with path.open("rb") as file:
        return [_sample(path, key, group, file, labels, captions) for key, group in groups.items()]


def _sample(
    path: Path, key: str, group: dict[str, Member], file: io.BufferedReader, labels: bool, captions: bool
) -> Sample:
    extension = next((name for name in IMAGE_EXTENSIONS if name in group), None)
    if extension is None:
        raise DataError(f"{path}: key {key!r} has no image; it needs a member .{', .'.join(IMAGE_EXTENSIONS)}")
    image = ImageMember(str(path), key, group[extension].offset, group[extension].size)
    label = _label(path, key, _text(path, key, group, "cls", file)) if labels else -1
    lines = _text(path, key, group, "txt", file).splitlines() if captions else []
    found = tuple(line for line in lines if line.strip())
    if captions and not found:
        raise DataError(f"{path}: key {key!r} has an empty .txt; write at least one caption, one a line")
    return Sample(image, label, found)


def _text(path: Path, key: str, group: dict[str, Member], extension: str, file: io.BufferedReader) -> str:
    if extension not in group:
        what = {"cls": "label", "txt": "caption"}[extension]
        raise DataError(f"{path}: key {key!r} has no {what}; add a member {key}.{extension} or choose another task")
    file.seek(group[extension].offset)
    try:
        return file.read(group[extension].size).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: {key}.{extension} is not UTF-8 text; write it again as UTF-8") from None


def _label(path: Path, key: str, content: str) -> int:
    content = content.strip()
    if not content.isascii() or not content.removeprefix("-").isdigit():  # int() also reads "1_0" and other scripts
        raise DataError(f"{path}: {key}.cls: {content!r} must be a whole number, the index of the class")
    return int(content)
