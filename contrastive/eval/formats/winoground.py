"""Winoground: two images and two captions of the same words, to be matched.

ROOT/examples.jsonl with id, image_0, image_1, caption_0, caption_1 and tags, and ROOT/images/NAME.png, as in the folder
`data` of https://huggingface.co/datasets/facebook/winoground (Thrush et al. 2022, arXiv 2204.03162).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.json_file import field, read_json_lines, text_field
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Choice, Content, Kind, Sample, file_image

FILE = "examples.jsonl"
SPLIT = "test"  # the only one that is published


@dataclass(frozen=True)
class Winoground:
    """The published folder, unpacked; `category` is the field by which figures are also given."""

    images: str = "images"
    category: str = "collapsed_tag"

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the images of all examples, and a choice an example; see `samples.Format`."""
        kinds = kinds_to_read(kinds, ("choice",), root)
        if split != SPLIT:
            raise ConfigError(f"split: {split!r}: Winoground has one split; set split: {SPLIT}")
        places: dict[str, int] = {}
        choices = [
            self._choice(record, f"{root / FILE}: line {n}", places) for n, record in read_json_lines(root / FILE)
        ]
        if not choices:
            raise DataError(f"{root / FILE} is empty; copy it again")
        samples = [Sample(file_image(root, str(Path(self.images) / _file(name)))) for name in places]
        return Content(samples, kinds, choices=tuple(choices))

    def _choice(self, record: dict[str, Any], where: str, places: dict[str, int]) -> Choice:
        """Return the choice of an example; new images are numbered in `places`."""
        names = [field(record, f"image_{side}", str, where) for side in (0, 1)]
        texts = tuple(text_field(record, f"caption_{side}", where) for side in (0, 1))
        if names[0] == names[1] or texts[0] == texts[1]:
            raise DataError(f"{where}: its two images, or its two captions, are the same; they cannot be told apart")
        images = tuple(places.setdefault(name, len(places)) for name in names)
        return Choice(images, texts, field(record, self.category, str, where))


def _file(name: str) -> str:
    """Return the file of an image; the published list leaves `.png` out."""
    return name if Path(name).suffix else f"{name}.png"
