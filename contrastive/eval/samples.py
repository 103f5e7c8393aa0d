"""What every layout of evaluation data becomes: images that are read when they are needed, and what is said of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from PIL import Image

from contrastive.errors import DataError
from contrastive.modalities.decode import PILLOW_ERRORS

Kind = Literal["classification", "multilabel", "retrieval", "choice"]
KINDS: tuple[Kind, ...] = ("classification", "multilabel", "retrieval", "choice")


class ImageSource(Protocol):
    """One image of a dataset, not yet read; small and picklable, as loader processes get a copy."""

    @property
    def name(self) -> str:
        """Where it comes from, as messages and galleries show it: shard and key, or the file below the root."""
        ...

    @property
    def stamp(self) -> str:
        """What changes when the bytes change, and is the same on every machine with the same copy: a size, a hash."""
        ...

    def decode(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            DataError: its bytes cannot be read as an image.
        """
        ...


class Caption(NamedTuple):
    """A text that belongs to an image. One `id` in several samples is one caption of several images.

    None: a caption of its own, whatever its text.
    """

    text: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its annotations; those of kinds that were not asked for stay empty."""

    image: ImageSource
    label: int = -1  # the class
    labels: tuple[int, ...] = ()  # the classes that are present, rising (multilabel)
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Images (indices of samples) and texts to be told apart: text j belongs to image j, further texts to none."""

    images: tuple[int, ...]
    texts: tuple[str, ...]
    category: str = ""  # the figures are also given by category


@dataclass(frozen=True)
class Content:
    """What a layout holds of one split; `kinds` are the kinds of annotations that were read."""

    samples: Sequence[Sample]
    kinds: tuple[Kind, ...]
    classnames: tuple[str, ...] = ()  # empty: the layout names no classes
    templates: tuple[str, ...] = ()  # empty: the layout has no prompts
    choices: tuple[Choice, ...] = ()


class Format(Protocol):
    """A layout; its constructor's arguments are the options that a YAML may set under `format`."""

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the split's samples with the annotations of `kinds`; of the layout's own kind where that is empty.

        Everything but the pixels is checked here.

        Raises:
            DataError: something is missing, damaged or contradicts something else.
            ConfigError: the layout has no annotations of a kind that is asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image file; `root` is left out of its name."""

    root: str
    relative: str
    size: int

    @property
    def name(self) -> str:
        """Return the path below the root."""
        return self.relative

    @property
    def stamp(self) -> str:
        """Return the size in bytes."""
        return str(self.size)

    def decode(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            DataError: the file cannot be read as an image.
        """
        path = Path(self.root) / self.relative
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        return decoded(content, str(path))


def file_image(root: Path, relative: str) -> FileImage:
    """Return the image file root/relative, which must exist.

    Raises:
        DataError: it does not.
    """
    path = root / relative
    try:
        size = path.stat().st_size
    except OSError:
        raise DataError(f"{path}: there is no such image; copy it there or correct the list") from None
    return FileImage(str(root), relative, size)


def decoded(content: bytes, what: str) -> Image.Image:
    """Return the image in `content`.

    Raises:
        DataError: Pillow cannot read it; the message begins with `what`.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except PILLOW_ERRORS as error:  # whichever it is, the remedy is the same
        raise DataError(f"{what}: the image cannot be read ({error}); replace it") from None
    return image
