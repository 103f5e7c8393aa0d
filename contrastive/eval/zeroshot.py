"""Zero-shot classification: the class whose prompts lie nearest to the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from contrastive.eval.bootstrap import Mean
from contrastive.eval.classes import (
    Similarities,
    class_weights,
    described,
    expected_hit,
    need_labels,
    score_chunks,
    template_weights,
)
from contrastive.eval.confusion import Confusions
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.gallery import QUERIES, top_answers
from contrastive.eval.ranking import MAX_SCORES, Ranks
from contrastive.eval.result import Result

TOP = 5
MAX_TEMPLATES = 200
MAX_ABLATION = (
    1 << 30
)  # scores of the ablation: about 10 s of one core at E = 512; of larger sets every k-th image is taken


@dataclass(frozen=True)
class _Answers:
    """What each image was taken for; all by image.

    `right`: the cosine with its own class; `better` and `ties`: classes above and level with it. `rival`: the wrong
    class that is nearest, with its cosine. `top`: the nearest classes [N, <= 5]. Of equals, `predicted` is the first.
    """

    right: Tensor
    better: Tensor
    ties: Tensor
    rival: Tensor
    rival_score: Tensor
    predicted: Tensor
    top: Tensor
    top_scores: Tensor
    confidence: Tensor  # [N, 1]; [N, 0] where the model has no logit scale

    @property
    def ranks(self) -> Ranks:
        return Ranks(self.better, self.ties, torch.ones_like(self.ties), self.right)


class ZeroShot:
    """Top-1, top-5 and mean per-class recall with prompt ensembling; ties by expectation.

    mean_per_class_recall: the mean over the classes that have samples (as scikit-learn's balanced accuracy).
    """

    def __init__(self, max_scores: int = MAX_SCORES, ablation: bool = True) -> None:
        """`ablation`: also score each template alone, which costs a second pass over the scores a template."""
        self.max_scores, self.ablation = max_scores, ablation

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details what the answers were and where they went wrong.

        Raises:
            ConfigError: the dataset has no classes.
        """
        dataset = embeddings.dataset
        labels = need_labels(dataset, "zeroshot")
        weights = class_weights(embeddings.text_features, dataset.prompts)
        similarities = Similarities()
        answers = self._answers(embeddings, weights, labels, similarities)
        hits = {k: answers.ranks.hits(k) for k in (1, TOP)}
        estimates = {f"top{k}": Mean(values) for k, values in hits.items()}
        estimates["mean_per_class_recall"] = Mean(hits[1], group=labels)
        classes = len(dataset.classnames)
        sizes = torch.bincount(labels, minlength=classes)
        recalled = torch.zeros(classes, dtype=torch.float64).index_add(0, labels, hits[1])
        confusions = Confusions.of(labels, answers.predicted, classes)
        return Result(
            metrics={f"top{k}": float(values.mean()) for k, values in hits.items()}
            | {"mean_per_class_recall": float((recalled / sizes)[sizes > 0].mean())},
            chance={"top1": 1 / classes, "top5": min(1.0, TOP / classes), "mean_per_class_recall": 1 / classes},
            details={
                "counts": _counts(dataset, answers.ranks, int((sizes == 0).sum())),
                "per_class": confusions.per_class(dataset.classnames, recalled),
                "confusion": confusions.as_details(dataset.classnames),
                "similarity": similarities.as_details(),
                "gallery": _gallery(embeddings, weights, answers.ranks),
                "near_misses": _near_misses(dataset, answers),
                **(_ablation(embeddings, labels, weights, self.max_scores) if self.ablation else {}),
            },
            estimates=estimates,
            clusters=len(dataset),
            rows={"predictions": _rows(dataset, answers, hits)},
        )

    def _answers(self, embeddings: Embeddings, weights: Tensor, labels: Tensor, similarities: Similarities) -> _Answers:
        parts = []
        for rows, scores in score_chunks(embeddings.image_features, weights, self.max_scores):
            part = _answered(scores, labels[rows], embeddings.logit_scale, embeddings.logit_bias)
            similarities.add(scores, part.right)
            parts.append(part)
        return _Answers(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(_Answers)))


def _answered(scores: Tensor, labels: Tensor, scale: float | None, bias: float | None) -> _Answers:
    own = labels[:, None]
    right = scores.gather(1, own)
    rival = scores.scatter(1, own, -torch.inf).max(1)
    top = scores.topk(min(TOP, scores.shape[1]))
    return _Answers(
        right=right[:, 0],
        better=(scores > right).sum(1),
        ties=(scores == right).sum(1) - 1,
        rival=rival.indices,
        rival_score=rival.values,
        predicted=scores.argmax(1),
        top=top.indices,
        top_scores=top.values,
        confidence=_confidence(scores, scale, bias)[:, None] if scale is not None else torch.empty(len(scores), 0),
    )


def _confidence(scores: Tensor, scale: float, bias: float | None) -> Tensor:
    """Return the probability of the nearest class: a softmax's, or, of a model with a bias, its own sigmoid's."""
    best = scores.amax(1)
    if bias is not None:
        return (scale * best + bias).sigmoid()
    return 1 / (scale * (scores - best[:, None])).exp().sum(1, dtype=torch.float64)


def _counts(dataset: EvalDataset, ranks: Ranks, empty: int) -> dict[str, Any]:
    return {
        "images": len(dataset),
        "classes": len(dataset.classnames),
        "empty_classes": empty,
        "templates": len(dataset.templates) or max(len(group) for group in dataset.prompts),
        "tie_rate": ranks.tie_rate,
    }


def _ablation(embeddings: Embeddings, labels: Tensor, weights: Tensor, max_scores: int) -> dict[str, Any]:
    """Return the top-1 of each template alone, and the best of them beside the ensemble, all on the same images.

    The best was chosen on the images that it is measured on: it is a little too good.
    """
    templates = embeddings.dataset.templates
    if not 2 <= len(templates) <= MAX_TEMPLATES:
        return {}
    every = -(-len(labels) * len(weights) * len(templates) // MAX_ABLATION)
    images, labels = embeddings.image_features[::every], labels[::every]

    def top1(alone: Tensor) -> float:
        chunks = score_chunks(images, alone, max_scores)
        return sum(float(expected_hit(scores, labels[rows]).sum()) for rows, scores in chunks) / len(labels)

    found = [top1(alone) for alone in template_weights(embeddings.text_features, embeddings.dataset)]
    best = max(range(len(found)), key=found.__getitem__)
    summary = {"images": len(labels), "ensemble": top1(weights), "best": templates[best], "best_top1": found[best]}
    listed = [{"template": template, "top1": value} for template, value in zip(templates, found, strict=True)]
    return {"templates": listed, "ablation": summary}


def _gallery(embeddings: Embeddings, weights: Tensor, ranks: Ranks) -> list[dict[str, Any]]:
    dataset = embeddings.dataset
    positives = [(label,) for label in dataset.labels]
    entries = top_answers(embeddings.image_features, weights, positives, ranks, "image_to_class")
    return [_with_truth(dataset, entry) for entry in entries]


def _near_misses(dataset: EvalDataset, answers: _Answers) -> list[dict[str, Any]]:
    """Return images between their own class and its nearest rival: the closest misses and hits, and the worst errors.

    `margin` is the cosine with the right class less that with the rival.
    """
    if len(dataset.classnames) < 2:
        return []
    margin = answers.right - answers.rival_score
    order = margin.argsort(stable=True)
    wrong, right = order[margin[order] <= 0], order[margin[order] > 0]
    picks = {"narrow_miss": wrong.flip(0), "narrow_hit": right, "confident_error": wrong}
    return [
        _with_truth(dataset, _duel(answers, pick, image, dataset.labels[image]))
        for pick, images in picks.items()
        for image in images[:QUERIES].tolist()
    ]


def _duel(answers: _Answers, pick: str, image: int, label: int) -> dict[str, Any]:
    right, rival = float(answers.right[image]), float(answers.rival_score[image])
    both = [
        {"id": label, "score": right, "correct": True},
        {"id": int(answers.rival[image]), "score": rival, "correct": False},
    ]
    return {
        "direction": "image_to_class",
        "pick": pick,
        "query": image,
        "rank": float(answers.ranks.expected[image]),
        "margin": right - rival,
        "answers": both if right > rival else both[::-1],
    }


def _with_truth(dataset: EvalDataset, entry: dict[str, Any]) -> dict[str, Any]:
    return {**described(dataset, entry), "truth": dataset.classnames[dataset.labels[entry["query"]]]}


def _rows(dataset: EvalDataset, answers: _Answers, hits: Mapping[int, Tensor]) -> dict[str, Sequence[Any]]:
    """Return a row an image; classes are numbers, as in `per_class`."""
    table: dict[str, Sequence[Any]] = {
        "id": range(len(dataset)),
        "image": [image.name for image in dataset.images],
        "label": dataset.labels,
        "predicted": answers.predicted.tolist(),
        "top5": answers.top.tolist(),
        "top5_scores": answers.top_scores.tolist(),
        "score": answers.right.tolist(),
        "rank": answers.ranks.expected.tolist(),
        **{f"hit{k}": values.tolist() for k, values in hits.items()},
    }
    if answers.confidence.shape[1]:
        table["confidence"] = answers.confidence[:, 0].tolist()
    return table
