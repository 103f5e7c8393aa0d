"""Multi-label classification: for each class, the images in the order of their scores."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.classes import Similarities, class_weights, described, score_chunks
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.gallery import top_answers
from contrastive.eval.pool import Pool
from contrastive.eval.ranking import MAX_SCORES, rank
from contrastive.eval.result import Result

TOP = 5
MAX_RESAMPLED = 1 << 24  # scores that intervals are computed for; beyond it they would take minutes


class MultiLabel:
    """Average precision: the mean over the classes that have an image, and of all pairs of image and class together.

    AP is the sum over thresholds of the precision times the rise of recall, equal scores being one threshold
    (scikit-learn's average_precision_score; not the 11-point mean of VOC). A constant model scores the prevalence.
    """

    def __init__(self, max_scores: int = MAX_SCORES, max_resampled: int = MAX_RESAMPLED) -> None:
        """`max_resampled`: of larger sets, images times classes, no interval is given."""
        self.max_scores, self.max_resampled = max_scores, max_resampled

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts, per_class, the mean with empty classes as 0, and the gallery.

        Raises:
            ConfigError: the dataset has no sets of labels, or no image has a label.
        """
        dataset = embeddings.dataset
        members = _members(dataset)
        scores = _ScoresByClass(embeddings, self.max_scores)
        thresholds = [Thresholds(column, own) for column, own in zip(scores, members, strict=True)]
        plain = torch.ones(1, len(dataset), dtype=torch.float64)
        mean = MeanPrecision(thresholds)
        each = mean.per_class(plain)[:, 0]  # [C]
        sizes = torch.tensor([len(own) for own in members])
        prevalence = sizes.double() / len(dataset)
        return Result(
            metrics={
                "mean_average_precision": float(each.nanmean()),
                "micro_average_precision": _micro(scores, members),
            },
            chance={
                "mean_average_precision": float(prevalence[sizes > 0].mean()),
                "micro_average_precision": float(prevalence.mean()),
            },
            details={
                "counts": _counts(dataset, sizes),
                "map_empty_as_zero": float(each.nan_to_num().mean()),  # CLIP_benchmark's mean
                "per_class": [
                    {"name": name, "n": n, "average_precision": ap if n else None}
                    for name, n, ap in zip(dataset.classnames, sizes.tolist(), each.tolist(), strict=True)
                ],
                **_shown(embeddings, self.max_scores),
            },
            estimates={"mean_average_precision": mean} if scores.size <= self.max_resampled else {},
            clusters=len(dataset),
            rows={"predictions": _rows(embeddings, self.max_scores)},
        )


class Thresholds:
    """Where the images of one class lie between the scores of those that have it.

    `segment` [N]: the number of distinct positive scores above each image's; `own`: the images that have the class.
    """

    def __init__(self, scores: Tensor, own: Tensor) -> None:
        """Take the scores of all images [N] and the images of the class."""
        levels = scores[own].unique()  # rising
        self.count = len(levels)
        self.segment = (self.count - torch.searchsorted(levels, scores, right=True)).int()
        self.own = own

    def average_precision(self, weights: Tensor) -> Tensor:
        """Return the AP under weights of the images, [N, b] to [b]; NaN where no image of the class has any."""
        size = (self.count + 1, weights.shape[1])  # the last segment is below all positives and counts for nothing
        passed = weights.new_zeros(size).index_add_(0, self.segment, weights)[:-1].cumsum(0)
        right = weights.new_zeros(size).index_add_(0, self.segment[self.own], weights[self.own])[:-1]
        precision = right.cumsum(0) / passed.clamp_min(1e-300)
        return (right * precision).sum(0) / right.sum(0)


class MeanPrecision:
    """The macro mean of average precision under weights of the images: what is resampled."""

    def __init__(self, thresholds: Sequence[Thresholds]) -> None:
        """Take the thresholds of each class."""
        self.thresholds = thresholds

    def per_class(self, weights: Tensor) -> Tensor:
        """Return [C, b] of weights [b, N]; NaN where a class has no image."""
        columns = weights.T.contiguous()
        return torch.stack([threshold.average_precision(columns) for threshold in self.thresholds])

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the mean over the classes that have an image, [b]."""
        return self.per_class(weights).nanmean(0)


class _ScoresByClass:
    """The scores of all images with one class after the other, [N] each; equal images have equal scores."""

    def __init__(self, embeddings: Embeddings, max_scores: int) -> None:
        self.weights = class_weights(embeddings.text_features, embeddings.dataset.prompts)
        pool = Pool.of(embeddings.image_features)
        self.images, self.place = pool.rows, pool.place
        self.size = len(self.place) * len(self.weights)
        self.classes = max(1, max_scores // len(self.images))

    def __iter__(self) -> Iterator[Tensor]:
        for weights in self.weights.split(self.classes):
            for column in (weights @ self.images.T).unbind():
                yield column[self.place]


def _members(dataset: EvalDataset) -> list[Tensor]:
    """Return the images of each class."""
    members: list[list[int]] = [[] for _ in dataset.classnames]
    for image, labels in enumerate(dataset.label_sets):
        for label in labels:
            members[label].append(image)
    if not any(members):
        raise ConfigError(
            f"dataset {dataset.spec.name}: task multilabel needs sets of labels, and its samples have none"
        )
    return [torch.tensor(images, dtype=torch.int64) for images in members]


def _micro(scores: _ScoresByClass, members: Sequence[Tensor]) -> float:
    """Return the AP of all pairs of image and class; only the scores of right pairs are held."""
    positive = torch.cat([column[own] for column, own in zip(scores, members, strict=True)])
    levels, right = positive.unique(return_counts=True)
    passed = torch.zeros(len(levels) + 1, dtype=torch.int64)
    for column in scores:
        passed += torch.bincount(torch.searchsorted(levels, column, right=True), minlength=len(passed))
    # From the highest threshold down; what lies below all of them counts for nothing.
    right, passed = right.flip(0).double(), passed[1:].flip(0).cumsum(0)
    return float((right * right.cumsum(0) / passed).sum() / len(positive))


def _counts(dataset: EvalDataset, sizes: Tensor) -> dict[str, Any]:
    return {
        "images": len(dataset),
        "classes": len(dataset.classnames),
        "empty_classes": int((sizes == 0).sum()),
        "images_without_label": sum(not labels for labels in dataset.label_sets),
        "labels_per_image": float(sizes.sum()) / len(dataset),
        "templates": len(dataset.templates) or max(len(group) for group in dataset.prompts),
    }


def _shown(embeddings: Embeddings, max_scores: int) -> dict[str, Any]:
    """Return the similarities and the gallery, whose queries are the images that have a label."""
    dataset = embeddings.dataset
    weights = class_weights(embeddings.text_features, dataset.prompts)
    similarities = Similarities()
    for rows, scores in score_chunks(embeddings.image_features, weights, max_scores):
        similarities.add(scores, scores[_present(dataset.label_sets[rows], len(weights))])
    labelled = [image for image, labels in enumerate(dataset.label_sets) if labels]
    positives = [dataset.label_sets[image] for image in labelled]
    queries = embeddings.image_features[labelled]
    ranks = rank(queries, weights, positives, max_scores)
    entries = top_answers(queries, weights, positives, ranks, "image_to_class")
    return {"similarity": similarities.as_details(), "gallery": [_named(dataset, labelled, entry) for entry in entries]}


def _present(label_sets: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return which classes each image has, bool [n, C]."""
    present = torch.zeros(len(label_sets), classes, dtype=torch.bool)
    for row, labels in zip(present, label_sets, strict=True):
        row[list(labels)] = True
    return present


def _named(dataset: EvalDataset, labelled: Sequence[int], entry: dict[str, Any]) -> dict[str, Any]:
    image = labelled[entry["query"]]
    truth = ", ".join(dataset.classnames[label] for label in dataset.label_sets[image])
    return {**described(dataset, {**entry, "query": image}), "truth": truth}


def _rows(embeddings: Embeddings, max_scores: int) -> dict[str, Sequence[Any]]:
    """Return a row an image; classes are numbers, as in `per_class`."""
    dataset = embeddings.dataset
    weights = class_weights(embeddings.text_features, dataset.prompts)
    chunks = score_chunks(embeddings.image_features, weights, max_scores)
    top = [scores.topk(min(TOP, len(weights))) for _, scores in chunks]
    return {
        "id": list(range(len(dataset))),
        "image": [image.name for image in dataset.images],
        "labels": [list(labels) for labels in dataset.label_sets],
        "top5": [row for part in top for row in part.indices.tolist()],
        "top5_scores": [row for part in top for row in part.values.tolist()],
    }
