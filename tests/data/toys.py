"""Pools, rows and loaders over tiny shards."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from contrastive.data.loader import Loader
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.rows import Batch, Plan, RankRows
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.modalities.image import Preprocess, TrainTransform
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.settings import DataConfig
from tests import toys

CROP = (0.5, 1.0)


def settings(train: Any = "", **options: Any) -> DataConfig:
    return DataConfig(
        train=str(train) if isinstance(train, Path) else train, **{"caption_key": "json.captions", **options}
    )


def pool(data: DataConfig) -> Pool:
    return open_pool(data, Storage(storage_options(data)))


def reader(data: DataConfig) -> Reader:
    return Reader(pool(data), Storage(storage_options(data)), data.damaged_shards)


def rows(
    data: DataConfig,
    *,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    consumed: int = 0,
    random_crop: tuple[float, float] | None = CROP,
    teacher_tokenizer: Tokenizer | None = None,
    opened: Reader | None = None,
    image_ids: bool = True,
) -> RankRows:
    found = reader(data) if opened is None else opened
    plan = Plan(found.pool.order(data, seed), seed, data.global_batch_size, rank, world_size, consumed)
    transform = TrainTransform(Preprocess(toys.SIZE), random_crop)
    return RankRows(found, transform, tokenizer(), plan, teacher_tokenizer=teacher_tokenizer, image_ids=image_ids)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerSpec(None, 12))  # takes 60 ms to build


def batches(data: DataConfig, steps: int, first_step: int = 0, **options: Any) -> list[Batch]:
    return list(Loader(rows(data, **options), workers=data.workers).batches(first_step, first_step + steps))


def joined(parts: list[Batch]) -> Batch:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
