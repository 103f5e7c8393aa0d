"""The Karpathy splits of COCO, Flickr30k and Flickr8k: one JSON of all images, each with its split and captions.

ROOT/dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json, as in caption_datasets.zip of
https://cs.stanford.edu/people/karpathy/deepimagesent/: images[].filename, filepath (COCO: val2014), split, and
sentences[] with raw and sentid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.errors import DataError
from contrastive.eval.formats.json_file import field, read_json, text_field
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Caption, Content, Kind, Sample, file_image

PATTERN = "dataset_*.json"
MERGED = {"restval": "train"}  # what COCO's validation images beyond val and test are used for


@dataclass(frozen=True)
class Karpathy:
    """The published JSON, found in the root or named by it; `images` is the folder of the images below the root."""

    images: str = "."

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the images of a split in the order of the file, with all their captions; see `samples.Format`."""
        kinds = kinds_to_read(kinds, ("retrieval",), root)
        path = _annotations(root)
        folder = path.parent
        samples, splits = [], dict[str, int]()
        for number, image in enumerate(field(read_json(path), "images", list, str(path))):
            where = f"{path}: image {number}"
            own = field(image, "split", str, where)
            own = MERGED.get(own, own)
            splits[own] = splits.get(own, 0) + 1
            if own != split:
                continue
            name = field(image, "filename", str, where)
            relative = Path(self.images) / str(image.get("filepath", "")) / name
            samples.append(Sample(file_image(folder, str(relative)), captions=_captions(image, f"{where} ({name})")))
        if not samples:
            found = ", ".join(f"{name} ({count})" for name, count in splits.items()) or "nothing"
            raise DataError(f"{path}: has no split {split!r}; it has {found}")
        return Content(samples, kinds)


def _annotations(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(root.glob(PATTERN))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root}: must hold one {PATTERN}, and there is {names}; or set root to the file itself")
    return found[0]


def _captions(image: dict[str, Any], where: str) -> tuple[Caption, ...]:
    """Return the captions of an image; by their ids where they have them."""
    sentences = field(image, "sentences", list, where)
    if not sentences:
        raise DataError(f"{where}: has no caption; write one or remove the image")
    captions = []
    for sentence in sentences:
        text = text_field(sentence, "raw", where)
        captions.append(Caption(text, str(sentence["sentid"]) if "sentid" in sentence else None))
    return tuple(captions)
