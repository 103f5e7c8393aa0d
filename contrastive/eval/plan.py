"""How long an evaluation will take, measured on a few samples before it starts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.eval.batches import image_batches
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
    planned = []
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, how.precision == "bf16"):
        for dataset in datasets:
            splits = [other for other in (dataset.train, dataset.val) if other is not None]
            images = partial(_images, model, transform, dataset, device)
            texts = partial(_texts, model, tokenizer, dataset, device)
            seconds = _expected(len(dataset) + sum(map(len, splits)), len(dataset), how.batch_size, images)
            seconds += _expected(len(dataset.texts), len(dataset.texts), how.batch_size, texts)
            planned.append(Planned(dataset, seconds))
    return planned


def _expected(count: int, size: int, batch_size: int, work: Callable[[Sequence[int]], object]) -> float:
    """Return the seconds of this process's share of `count` samples, from a few of `size` that are spread over them.

    A batch costs something by itself, whatever its size: the time of one sample beside that of several tells how much.
    """
    if count == 0:
        return 0.0
    probed = min(PROBED, size)
    ids = [index * size // probed for index in range(probed)]
    one, several = _seconds(work, ids[:1]), _seconds(work, ids)
    each, count = max(0.0, several - one) / max(1, probed - 1), -(-count // distributed.world_size())
    return count * each + -(-count // batch_size) * max(0.0, one - each)


def _seconds(work: Callable[[Sequence[int]], object], ids: Sequence[int]) -> float:
    taken = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work(ids)
        taken.append(time.perf_counter() - start)
    return min(taken)  # the first warms caches and memory up, and any may be disturbed


def _images(
    model: ContrastiveModel, transform: Transform, dataset: EvalDataset, device: torch.device, ids: Sequence[int]
) -> list[Tensor]:
    batches = image_batches(dataset.images, ids, transform, len(ids), device=device)
    return [model.encode_image(batch.inputs.to(device)).cpu() for batch in batches if batch.inputs is not None]


def _texts(
    model: ContrastiveModel, tokenizer: Tokenizer, dataset: EvalDataset, device: torch.device, ids: Sequence[int]
) -> Tensor:
    return model.encode_text(tokenizer([dataset.texts[index] for index in ids]).to(device)).cpu()
