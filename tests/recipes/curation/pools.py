"""Shards of samples that a test describes, opened as curation opens them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.recipes.samples import Sample
from contrastive.settings import DataConfig
from tests import toys


class Made(NamedTuple):
    """One sample; of several captions all lie in json.captions."""

    key: str
    caption: str | list[str] = "a plain caption"
    width: int = 16
    height: int = 16
    fields: dict[str, Any] | None = None
    image: bytes | None = None


def write(folder: Path, samples: Sequence[Made], shards: int = 1) -> Path:
    for shard, places in enumerate(np.array_split(np.arange(len(samples)), shards)):
        members = [member for place in places.tolist() for member in _members(samples[place])]
        toys.write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def opened(folder: Path) -> Reader:
    several = {"txt": 0.5, "json.captions": 0.5}
    config = DataConfig(train=[str(folder)], caption_key=several)
    storage = Storage()
    return Reader(open_pool(config, storage, processes=1), storage, "substitute")


def made(folder: Path, *samples: Made) -> list[Sample]:
    """Write samples into one shard, and return them as filters see them."""
    reader = opened(write(folder, samples))
    return [Sample(reader, number) for number in range(len(reader.pool))]


def pool(folder: Path, *samples: Made) -> Pool:
    return opened(write(folder, samples)).pool


def _members(sample: Made) -> list[tuple[str, bytes]]:
    image = sample.image
    if image is None:
        image = toys.encode(np.full((sample.height, sample.width, 3), 90, np.uint8))
    captions = [sample.caption] if isinstance(sample.caption, str) else sample.caption
    fields = {**(sample.fields or {}), "captions": captions[1:]}
    return [
        (f"{sample.key}.png", image),
        (f"{sample.key}.txt", captions[0].encode()),
        (f"{sample.key}.json", json.dumps(fields).encode()),
    ]
