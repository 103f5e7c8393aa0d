"""Zero-shot classification: the class whose prompts lie nearest to the image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.errors import ConfigError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.gallery import top_answers
from contrastive.eval.ranking import MAX_SCORES, Ranks, rank
from contrastive.eval.result import Result

MAX_CONFUSION = 200  # classes; a larger matrix says less than its most confused pairs
MAX_PAIRS = 40


class ZeroShot:
    """Top-1, top-5 and mean per-class recall with prompt ensembling; ties by expectation.

    mean_per_class_recall: the mean over the classes that have samples (as scikit-learn's balanced accuracy).
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self.max_scores = max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts, per_class, confusion and gallery."""
        dataset = embeddings.dataset
        if not dataset.labels:
            raise ConfigError(
                f"dataset {dataset.spec.name}: task zeroshot needs classes, and its samples have no labels"
            )
        weights = class_weights(embeddings.text_features, dataset.prompts)
        positives = [(label,) for label in dataset.labels]
        ranks = rank(embeddings.image_features, weights, positives, self.max_scores)
        labels, classes = torch.tensor(dataset.labels), len(dataset.classnames)
        sizes = torch.bincount(labels, minlength=classes)
        recall = torch.zeros(classes, dtype=torch.float64).scatter_add(0, labels, ranks.hits(1)) / sizes
        metrics = {f"top{k}": float(ranks.hits(k).mean()) for k in (1, 5)}
        metrics["mean_per_class_recall"] = float(recall[sizes > 0].mean())
        chance = {"top1": 1 / classes, "top5": min(1.0, 5 / classes), "mean_per_class_recall": 1 / classes}
        per_class = [
            {"name": name, "n": n, "recall": value if n else None}
            for name, n, value in zip(dataset.classnames, sizes.tolist(), recall.tolist(), strict=True)
        ]
        details = {
            "counts": _counts(dataset, ranks, int((sizes == 0).sum())),
            "per_class": per_class,
            "confusion": _confusion(dataset, _predictions(embeddings.image_features, weights, self.max_scores)),
            "gallery": _named(
                top_answers(embeddings.image_features, weights, positives, ranks, "image_to_class"), dataset
            ),
        }
        return Result(metrics, chance, details)


def class_weights(text_features: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return [C, E]: each class's mean of its prompts' normalised features, normalised again (Radford et al. 2021)."""
    means = torch.stack([text_features[list(group)].mean(0) for group in prompts])
    return nn.functional.normalize(means, dim=1)


def _counts(dataset: EvalDataset, ranks: Ranks, empty: int) -> dict[str, Any]:
    return {
        "images": len(dataset),
        "classes": len(dataset.classnames),
        "empty_classes": empty,
        "templates": max(len(group) for group in dataset.prompts),
        "tie_rate": ranks.tie_rate,
    }


def _predictions(image_features: Tensor, weights: Tensor, max_scores: int) -> Tensor:
    rows = max(1, max_scores // len(weights))
    return torch.cat([(chunk @ weights.T).argmax(1) for chunk in image_features.split(rows)])


def _confusion(dataset: EvalDataset, predicted: Tensor) -> dict[str, Any]:
    """Return class names, counts[label][prediction] (empty above MAX_CONFUSION classes) and the most confused pairs."""
    classes = len(dataset.classnames)
    cells, counts = torch.unique(torch.tensor(dataset.labels) * classes + predicted, return_counts=True)
    wrong = (cells // classes != cells % classes).nonzero().flatten()
    worst = wrong[counts[wrong].argsort(descending=True, stable=True)[:MAX_PAIRS]]
    pairs = [
        {"label": dataset.classnames[cell // classes], "predicted": dataset.classnames[cell % classes], "n": n}
        for cell, n in zip(cells[worst].tolist(), counts[worst].tolist(), strict=True)
    ]
    if classes > MAX_CONFUSION:
        return {"classes": [], "counts": [], "pairs": pairs}
    matrix = torch.zeros(classes * classes, dtype=torch.int64).scatter(0, cells, counts).view(classes, classes)
    return {"classes": list(dataset.classnames), "counts": matrix.tolist(), "pairs": pairs}


def _named(entries: list[dict[str, Any]], dataset: EvalDataset) -> list[dict[str, Any]]:
    """Return the gallery with class names and image keys."""
    return [
        {
            **entry,
            "image_id": entry["query"],
            "key": dataset.images[entry["query"]].name,
            "truth": dataset.classnames[dataset.labels[entry["query"]]],
            "answers": [{**answer, "text": dataset.classnames[answer["id"]]} for answer in entry["answers"]],
        }
        for entry in entries
    ]
