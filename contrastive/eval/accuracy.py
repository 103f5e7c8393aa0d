"""The figures of tasks that learn classes from a training split. N images, C classes, E embed_dim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import ConfigError, DataError
from contrastive.eval.bootstrap import Mean
from contrastive.eval.classes import need_labels
from contrastive.eval.embed import Embeddings
from contrastive.eval.rank_metrics import Figures
from contrastive.eval.ranking import Ranks

NAMED = 3  # classes in a message


@dataclass(frozen=True)
class Split:
    """Features [N, E] and the class of each, counted from 0 over the classes that the training split has.

    `numbers` [C]: those classes in the dataset.
    """

    features: Tensor
    labels: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


def splits(embeddings: Embeddings, task: str) -> tuple[Split, Split, Split | None]:
    """Return what is learned from, what is measured on, and what is chosen on, if the dataset has such a split.

    Raises:
        ConfigError: there is no training split, or the dataset has no classes.
        DataError: an image has a class that the training split lacks.
    """
    dataset = embeddings.dataset
    labels = need_labels(dataset, task)
    if embeddings.train is None:
        rule = "set train_split, the split that is learned from"
        raise ConfigError(f"dataset {dataset.spec.name}: task {task} has nothing to learn from: {rule}")
    known = need_labels(embeddings.train.dataset, task)
    numbers = known.unique()
    place = torch.full((len(dataset.classnames),), -1).index_copy(0, numbers, torch.arange(len(numbers)))

    def split(features: Tensor, own: Tensor, name: str) -> Split:
        missing = own[place[own] < 0].unique().tolist()
        if missing:
            names = ", ".join(dataset.classnames[number] for number in missing[:NAMED])
            names += ", …" if len(missing) > NAMED else ""
            raise DataError(
                f"dataset {dataset.spec.name}: {len(missing)} classes of split {name!r} ({names}) have no image in "
                f"train_split {dataset.spec.train_split!r}: {task} cannot know them; add images, or leave the task out"
            )
        return Split(features, place[own], numbers)

    train = split(embeddings.train.image_features, known, str(dataset.spec.train_split))
    test = split(embeddings.image_features, labels, dataset.spec.split)
    val = None
    if embeddings.val is not None:
        own = need_labels(embeddings.val.dataset, task)
        val = split(embeddings.val.image_features, own, str(dataset.spec.val_split))
    return train, test, val


def accuracy(ranks: Ranks, split: Split, prefix: str) -> Figures:
    """Return top-1, top-5 and the mean over classes of the recall, with chance levels; ties by expectation."""
    figures, cluster, classes = Figures(), torch.arange(len(split)), len(split.numbers)
    for k in (1, 5):
        figures.add_mean(f"{prefix}_top{k}", ranks.hits(k), cluster, min(1.0, k / classes))
    name, hits = f"{prefix}_mean_per_class_recall", ranks.hits(1)
    sizes = torch.bincount(split.labels, minlength=classes)
    recalled = torch.zeros(classes, dtype=torch.float64).index_add(0, split.labels, hits)
    figures.metrics[name] = float((recalled / sizes)[sizes > 0].mean())
    figures.chance[name] = 1 / classes
    figures.estimates[name] = Mean(hits, group=split.labels)
    return figures


def prediction_rows(
    embeddings: Embeddings, split: Split, predicted: Tensor, ranks: Ranks
) -> Mapping[str, Sequence[Any]]:
    """Return a row an image; `predicted` are places among the split's classes, of equals the first."""
    return {
        "id": range(len(split)),
        "image": [image.name for image in embeddings.dataset.images],
        "label": split.numbers[split.labels].tolist(),
        "predicted": split.numbers[predicted].tolist(),
        "rank": ranks.expected.tolist(),
        "hit1": ranks.hits(1).tolist(),
        "hit5": ranks.hits(5).tolist(),
    }
