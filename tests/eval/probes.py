"""Embeddings of classes with a training split, for the tests of what learns from it."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.eval.embed import Embeddings
from tests.eval.toys import classified, unit

CLASSES, WIDTH = 6, 12


def cloud(labels: list[int], seed: int, spread: float = 2.5) -> Tensor:
    """Rows around their class's centre, all in one narrow cone as CLIP's are, length 1."""
    centres = unit(CLASSES, WIDTH, 99)
    return normalize(centres[labels] + spread * unit(len(labels), WIDTH, seed) + 2 * unit(1, WIDTH, 98), dim=1)


def split(labels: list[int], seed: int, spread: float = 2.5) -> Embeddings:
    return classified(cloud(labels, seed, spread), unit(CLASSES, WIDTH, 97), labels)


def learned(
    train: list[int] | None = None, test: list[int] | None = None, val: list[int] | None = None, spread: float = 2.5
) -> Embeddings:
    """A test split of 60 images that has a training split of 120 and, if asked for, one to choose on."""
    own = split(test or [i % CLASSES for i in range(60)], 1, spread)
    spec = replace(own.dataset.spec, train_split="train", val_split=None if val is None else "val")
    return replace(
        own,
        dataset=replace(own.dataset, spec=spec),
        train=split(train or [i % CLASSES for i in range(120)], 2, spread),
        val=None if val is None else split(val, 3, spread),
    )


def ones(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.float64)
