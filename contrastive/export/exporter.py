"""What every exporter offers, and what it hands over to be proved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from contrastive.export.probe import Probe
from contrastive.export.source import Source

Tower = Literal["image", "text"]


@dataclass(frozen=True)
class Tolerance:
    """What an export is held to.

    `distance`: the largest L2 distance between the unit vectors of the same input before and after, which bounds every
    single difference. `cosine`: the least cosine. `accuracy`: points (0.01 is one) that a zero-shot top-1 may change.
    None: not asked.
    """

    distance: float | None = 1e-5
    cosine: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Written:
    """What an exporter says of the folder that it wrote.

    `layers`: by tower, in the order of computation, (a module's name in our model, its name in theirs) where both give
    the same tensor: what an error needs to name the first layer that differs. `notes`: sentences for the model card,
    of what a user of the format must know.
    """

    layers: Mapping[Tower, Sequence[tuple[str, str]]] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Exporter(Protocol):
    """A format. A new one is one file, one line in `registry.EXPORTERS` and one reader.

    The constructor's signature is the schema of its options. `requires`: modules that must be importable to write or to
    read it, each with the name that pip knows. `towers`: those that it holds. `reader`: a file of `readers/`.
    """

    requires: Mapping[str, str]
    towers: Sequence[Tower]
    tolerance: Tolerance
    reader: str

    def check(self, source: Source) -> None:
        """Refuse what the format cannot hold, before anything is written.

        Raises:
            ModelError: naming the key of the model's description that stands in the way, and why.
        """

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:
        """Write the model into `folder`, which exists and is empty. `probe` is there for formats that calibrate."""

    def loading(self, folder: str) -> str:
        """Return three lines or so of Python that load the export from `folder` and embed one image and one text.

        They end with `image_features` [1, embed_dim] and, where there is a text tower, `text_features`; the image is
        `image`, a PIL image that exists before, and the text `"a photo of a cat"`.
        """
