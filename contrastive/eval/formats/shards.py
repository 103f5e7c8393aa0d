"""Our own training shards as evaluation data: retrieval of the captions in a held-out folder of tars.

ROOT/SPLIT/*.tar with members KEY.jpg and KEY.txt (or a JSON field); `split` may also be a pattern below the root, such
as val-{000..004}.tar. See `contrastive.data` for the shards and their index.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastive.data.access import is_packed
from contrastive.data.captions import texts
from contrastive.data.index import Selection
from contrastive.data.places import expand
from contrastive.data.shards import Manifest, Row, open_manifest
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.clip_benchmark import ImageMember
from contrastive.eval.formats.kinds import kinds_to_read
from contrastive.eval.samples import Caption, Content, Kind, Sample

log = logging.getLogger("contrastive")
QUARANTINED = "quarantined"  # the manifest's word for samples that were set aside
SETTING = "split"


@dataclass(frozen=True)
class Shards:
    """`image_key` are members joined by `;`, the first that is there wins; `caption_key` is txt or json.FIELD.

    All captions of a sample are read: each of a JSON list, but a text as a whole, as in training. Samples in quarantine
    are left out, with a warning; a sample without image or caption is refused.
    """

    image_key: str = "jpg;jpeg;png;webp"
    caption_key: str = "txt"

    def read(self, root: Path, split: str, kinds: Sequence[Kind]) -> Content:
        """Return the samples in the order of the shards; see `samples.Format`."""
        kinds = kinds_to_read(kinds, ("retrieval",), root)
        image_keys = tuple(key.strip().lower() for key in self.image_key.split(";") if key.strip())
        member = self.caption_key.partition(".")[0].strip()
        if not image_keys or not member:
            raise ConfigError("format.image_key, format.caption_key: name a member each, such as jpg and txt")
        locations = expand(str(root if root.is_file() else root / split), SETTING)
        packed = next(filter(is_packed, locations), None)
        if packed is not None:
            raise DataError(f"{packed}: is compressed, and single images cannot be read from it; unpack it with gunzip")
        storage = Storage()
        manifest = _opened(locations, Selection(image_keys, (member,)), storage)
        _refuse_unusable(manifest, split)
        samples = [self._sample(storage, manifest, number, image_keys) for number in range(len(manifest))]
        storage.close()
        return Content(samples, kinds)

    def _sample(self, storage: Storage, manifest: Manifest, number: int, image_keys: Sequence[str]) -> Sample:
        row = manifest.row(number)
        path = manifest.shards[row.shard].location
        name = next(key for key in image_keys if key in row.members)
        return Sample(ImageMember(path, row.key, *row.members[name]), captions=self._captions(storage, path, row))

    def _captions(self, storage: Storage, path: str, row: Row) -> tuple[Caption, ...]:
        offset, size = row.members[self.caption_key.partition(".")[0].strip()]
        try:
            found = texts(storage.read(path, offset, size), self.caption_key)
        except ValueError as error:
            raise DataError(
                f"{path}: key {row.key!r}: format.caption_key asks for {self.caption_key}, and {error}"
            ) from None
        if not found:
            raise DataError(f"{path}: key {row.key!r} has an empty caption; write one or leave the sample out")
        return tuple(map(Caption, found))


def _opened(locations: Sequence[str], selection: Selection, storage: Storage) -> Manifest:
    """Return the samples of shards; messages name the keys of evaluation instead of those of training."""
    try:
        return open_manifest(locations, selection, storage)
    except DataError as error:
        said = str(error).replace(", or use what is whole with data.damaged_shards=substitute", "")
        for key in ("image_key", "caption_key"):
            said = said.replace(f"data.{key}", f"format.{key}")
        raise DataError(said.replace("data.train", SETTING)) from None


def _refuse_unusable(manifest: Manifest, split: str) -> None:
    unusable = dict(manifest.unusable)
    set_aside = unusable.pop(QUARANTINED, 0)
    if unusable:
        said = ", ".join(f"{count:,} samples have {reason}" for reason, count in unusable.items())
        raise DataError(f"split {split}: {said}; mend them, or set format.image_key and format.caption_key")
    if set_aside:
        log.warning("split %s: %d samples in quarantine are left out", split, set_aside)
