"""SugarCrepe: is an image told apart from a hard negative of its caption?

ROOT/SPLIT.json, {"0": {"filename", "caption", "negative_caption"}, …}, and the images of COCO val2017 that it names.
https://github.com/RAIVNLab/sugar-crepe (Hsieh et al. 2023, arXiv 2306.14610)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastive.errors import DataError
from contrastive.eval.formats.json_file import field, read_json, text_field
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Choice, Content, Kind, Sample, file_image


@dataclass(frozen=True)
class SugarCrepe:
    """One of the published files, or several: `split` may be a pattern, `*` for all; each is then a category.

    `images` is the folder of the images below the root.
    """

    images: str = "val2017"

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return a choice of an image's caption and its negative for every entry; see `samples.Format`."""
        kinds = kinds_to_read(kinds, ("choice",), root)
        paths = sorted(root.glob(f"{split}.json"))
        if not paths:
            raise DataError(f"there is no {root / split}.json; {_others(root)}")
        places: dict[str, int] = {}  # the files share images
        choices = [choice for path in paths for choice in _choices(path, places, path.stem if len(paths) > 1 else "")]
        samples = [Sample(file_image(root, str(Path(self.images) / name))) for name in places]
        return Content(samples, kinds, choices=tuple(choices))


def _choices(path: Path, places: dict[str, int], category: str) -> list[Choice]:
    """Return the choices of a file; new images are numbered in `places`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be an object of entries with filename, caption and negative_caption")
    choices = []
    for key, entry in content.items():
        where = f"{path}: entry {key!r}"
        texts = text_field(entry, "caption", where), text_field(entry, "negative_caption", where)
        if texts[0].strip() == texts[1].strip():
            raise DataError(f"{where}: caption and negative_caption are the same; mend or remove the entry")
        image = places.setdefault(field(entry, "filename", str, where), len(places))
        choices.append(Choice((image,), texts, category))
    return choices


def _others(root: Path) -> str:
    found = ", ".join(sorted(path.stem for path in root.glob("*.json")))
    return f"set split to one of {found}" if found else "copy the published JSON files there"
