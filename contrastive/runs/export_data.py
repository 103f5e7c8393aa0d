"""The data that an export is tried on: held images and captions, and the labelled ones that tell what int8 costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor

from contrastive.errors import DataError, UserError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Pass
from contrastive.eval.suite import evaluate
from contrastive.export.probe import Probe, built_in_probe
from contrastive.modalities.decode import as_rgb
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.runs.eval_data import datasets_of

COMPARED, CALIBRATED = 32, 256  # images of a dataset, and as many of its texts
BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Zero-shot top-1 of a dataset before and after, of `n` images."""

    before: float
    after: float
    n: int


def held_data(data: Sequence[str], root: str, model: str) -> tuple[list[EvalDataset], str | None]:
    """Return the datasets that were named, or those of the run where none was; and why the latter cannot be had.

    Raises:
        UserError: one that was named cannot be opened.
    """
    try:
        return datasets_of(data, (), root, model), None
    except UserError as error:
        if data:
            raise
        return [], str(error)


def probe_of(datasets: Sequence[EvalDataset]) -> Probe:
    """Return images and captions of datasets behind the built-in ones; what calibrates is not what is compared."""
    probe = built_in_probe()
    images = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    texts = list(dict.fromkeys(text for dataset in datasets for text in dataset.texts))
    compared, calibrated = _apart(images)
    read, told = _apart(texts)
    return Probe(
        [*probe.images, *_decoded(compared)],
        [*probe.texts, *read],
        _decoded(calibrated) or probe.calibration_images,
        told or probe.calibration_texts,
    )


def _apart(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return two selections, evenly spread over the items, without one in common."""
    wanted = min(len(items), COMPARED + CALIBRATED)
    spread = [items[index * len(items) // wanted] for index in range(wanted)]
    step = max(1, wanted // COMPARED)
    compared = spread[::step][:COMPARED]
    return compared, [item for index, item in enumerate(spread) if index % step or index // step >= COMPARED]


def _decoded(places: Sequence[tuple[EvalDataset, int]]) -> list[Image.Image]:
    images = []
    for dataset, index in places:
        try:
            images.append(as_rgb(dataset.image(index)))
        except DataError:  # evaluation counts and names them
            continue
    return images


def accuracies(
    model: ContrastiveModel,
    transform: Callable[[Image.Image], Tensor],
    tokenizer: Callable[[list[str]], Tensor],
    datasets: Sequence[EvalDataset],
) -> Mapping[str, tuple[float, int]]:
    """Return zero-shot top-1 and number of images of each dataset that has single labels, by name."""
    labelled = [replace(one, tasks=({"name": "zeroshot"},), train=None, val=None) for one in datasets if one.labels]
    results = evaluate(model, transform, tokenizer, labelled, Pass(batch_size=BATCH))
    return {result.dataset: (result.metrics["top1"], result.n) for result in results}
