"""How long an evaluation will take, measured on a few samples before it starts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.errors import DataError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import ContrastiveModel, Pass, Tokenizer, Transform, evaluating

PROBED, TRIES = 16, 2  # samples, times


@dataclass(frozen=True)
class Planned:
    """A dataset that will be evaluated, and how many seconds its embedding is expected to take."""

    dataset: EvalDataset
    seconds: float


def plan(
    model: ContrastiveModel,
    transform: Transform,
    tokenizer: Tokenizer,
    datasets: Sequence[EvalDataset],
    how: Pass = Pass(),
) -> list[Planned]:
    """Return the datasets with the expected duration of their passes; each process measures its own share's speed.

    What a cache holds already is not known yet: with one it may be faster.
    """
    device = torch.device(how.device)
    sharing = distributed.world_size()
    planned = []
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, how.precision == "bf16"):
        for dataset in datasets:
            images = _each(len(dataset), partial(_images, model, transform, dataset, device))
            texts = _each(len(dataset.texts), partial(_texts, model, tokenizer, dataset, device))
            splits = [other for other in (dataset.train, dataset.val) if other is not None]
            total = images * (len(dataset) + sum(map(len, splits))) + texts * len(dataset.texts)
            planned.append(Planned(dataset, total / sharing))
    return planned


def _each(count: int, work: Callable[[Sequence[int]], object]) -> float:
    """Return the seconds of one of `count` samples, from a few that are spread over them all."""
    if count == 0:
        return 0.0
    probed = min(PROBED, count)
    ids = [index * count // probed for index in range(probed)]
    taken = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work(ids)
        taken.append(time.perf_counter() - start)
    return min(taken) / probed  # the first warms caches and memory up, and any may be disturbed


def _images(
    model: ContrastiveModel, transform: Transform, dataset: EvalDataset, device: torch.device, ids: Sequence[int]
) -> Tensor | None:
    found = []
    for index in ids:
        try:
            found.append(transform(dataset.image(index)))
        except DataError:
            continue  # the pass counts and names them
    return model.encode_image(torch.stack(found).to(device)).cpu() if found else None


def _texts(
    model: ContrastiveModel, tokenizer: Tokenizer, dataset: EvalDataset, device: torch.device, ids: Sequence[int]
) -> Tensor:
    return model.encode_text(tokenizer([dataset.texts[index] for index in ids]).to(device)).cpu()
