"""Tars to an index of usable samples: where each one's image, caption and label lie.

A sample is usable when it has an image member and a caption member. Members of one sample share a key and need not be
adjacent. Nothing but plain tar is opened, and nothing in a tar is ever unpickled or executed.
"""

import glob
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import braceexpand
import numpy as np
from numpy.typing import NDArray

from contrastive.data.tar import Member, key_and_extension, members
from contrastive.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Every usable sample of a set of shards: row i says in which shard, and at which bytes, image and caption lie."""

    shards: tuple[Path, ...]
    keys: tuple[str, ...]
    shard: NDArray[np.int32]  # [N]
    image: NDArray[np.int64]  # [N, 2]: offset, size
    caption: NDArray[np.int64]  # [N, 2]: offset, size
    unusable: int  # samples that lack an image or a caption
    label: NDArray[np.int64] | None = None  # [N, 2]: offset, size; None when no label is asked for

    def __len__(self) -> int:
        return len(self.keys)


def expand(spec: str) -> list[Path]:
    """Return the tars that a path, directory, glob, brace pattern, or several of them joined by `::` name.

    Raises:
        DataError: a part names nothing, names a missing file, or is a shell pipe.
    """
    found: list[Path] = []
    for part in filter(None, (p.strip() for p in spec.split("::"))):
        if part.lower().startswith("pipe:"):
            raise DataError(f"data.train: {part!r} would run a shell command; copy the shards to a file system")
        if "://" in part:
            raise DataError(f"data.train: {part!r} is a URL; shards are read from a file system, mount or copy them")
        found += _expand_part(part)
    if not found:
        raise DataError(
            "data.train: names no shards; give a path, a directory, a glob or a brace pattern of .tar files"
        )
    return found


def _expand_part(part: str) -> list[Path]:
    if Path(part).is_dir():
        shards = sorted(Path(part).glob("*.tar"))
        if not shards:
            raise DataError(f"data.train: the directory {part} holds no .tar file")
        return shards
    names = list(braceexpand.braceexpand(part))
    paths = [Path(hit) for name in names for hit in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        count = f" ({len(missing)} of {len(paths)} shards are missing)" if len(paths) > 1 else ""
        raise DataError(f"data.train: {missing[0] if missing else part} does not exist{count}")
    return paths


def index(shards: list[Path], image_key: str, caption_key: str, label_key: str | None = None) -> Samples:
    """Return the usable samples of `shards`, in the order of the tars.

    `image_key` lists the members that may hold the image (`jpg;png`), first match wins; of `caption_key` and
    `label_key` only the member before the first dot matters here (`json` of `json.captions`).

    Raises:
        DataError: a shard is no tar, is damaged, no sample has both members, or a usable one lacks its label.
    """
    image_members, caption_member = image_key.split(";"), caption_key.partition(".")[0]
    label_member = None if label_key is None else label_key.partition(".")[0]
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    seen: Counter[str] = Counter()
    unusable = 0
    for number, path in enumerate(shards):
        for key, sample in _samples_of(path).items():
            seen.update(sample.keys())  # of a mapping, Counter would add the values
            image = next((sample[m] for m in image_members if m in sample), None)
            caption = sample.get(caption_member)
            if image is None or caption is None:
                unusable += 1
                continue
            keys.append(key)
            label = () if label_member is None else _label_span(sample, label_member, f"{path}:{key}")
            rows.append((number, image.offset, image.size, caption.offset, caption.size, *label))
    if not rows:
        _refuse(seen, image_members, caption_member)
    table = np.array(rows, dtype=np.int64)
    labels = None if label_member is None else table[:, 5:7]
    shard = table[:, 0].astype(np.int32)
    return Samples(tuple(shards), tuple(keys), shard, table[:, 1:3], table[:, 3:5], unusable, labels)


def _label_span(sample: Mapping[str, Member], member: str, where: str) -> tuple[int, int]:
    # Left out in silence, such a sample would train as if it were like no other.
    if member not in sample:
        raise DataError(f"{where}: data.label_key asks for a member {member!r}, and this one has {', '.join(sample)}")
    return sample[member].offset, sample[member].size


def _refuse(seen: Counter[str], image_members: list[str], caption_member: str) -> None:
    members = ", ".join(name for name, _ in seen.most_common(12)) or "nothing"
    for setting, wanted in (("data.image_key", image_members), ("data.caption_key", [caption_member])):
        if not any(name in seen for name in wanted):
            raise DataError(f"{setting}: no sample has a member {' or '.join(wanted)}; the shards hold {members}")
    raise DataError("data.train: no sample has both an image and a caption; do their file names share a key?")


def _samples_of(path: Path) -> dict[str, dict[str, Member]]:
    samples: dict[str, dict[str, Member]] = {}
    for member in members(path):
        key, extension = key_and_extension(member.name)
        if key and extension:
            samples.setdefault(key, {}).setdefault(extension, member)
    return samples
