"""Calibration: whether the probabilities of the trained temperature are the frequencies of being right.

The probabilities are a softmax of logit_scale * cosine over the classes; of a model with a logit_bias (SigLIP) they are
a sigmoid for each pair of image and class. N images, C classes.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from contrastive.errors import ConfigError
from contrastive.eval.bootstrap import Estimate, Mean
from contrastive.eval.classes import class_weights, expected_hit, need_labels, score_chunks
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.ranking import MAX_SCORES
from contrastive.eval.result import Result

BINS = 15
SEARCH = 1e3  # how far from the trained scale the fitted one may lie, up and down
FIT_STEPS, FIT_TOLERANCE = 40, 1e-6


class Calibration:
    """Errors of the probabilities; 0 is best, and a sharp model may be badly calibrated.

    ece: expected calibration error, 15 bins of equal width; mce: that of the worst bin; adaptive_ece: 15 bins of equal
    numbers of images (Nguyen and O'Connor 2015, https://arxiv.org/abs/1508.05154). brier: the squared error summed over
    classes, 0 to 2. nll: of the right class, in nats. confidence: the mean probability of the nearest class.
    ece_after_scaling: when one temperature is fitted on half of the images and measured on the other, both ways;
    temperature: by what that divides the trained logits (above 1: overconfident).

    Of a model with a logit_bias there are pair_ece, pair_mce, pair_brier (0 to 1) and pair_nll over all pairs of image
    and class. Chance is a model that gives every class the same probability, 1 / C.
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self.max_scores = max(1, max_scores // 4)  # probabilities are float64, and several are held beside each other

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts and reliability.

        Raises:
            ConfigError: the dataset has no classes, or the model no logit_scale.
        """
        dataset = embeddings.dataset
        labels = need_labels(dataset, "calibration")
        if embeddings.logit_scale is None:
            raise ConfigError(
                f"dataset {dataset.spec.name}: task calibration needs the trained logit_scale, and the model has none; "
                "leave calibration out of tasks"
            )
        weights = class_weights(embeddings.text_features, dataset.prompts)
        scores = Scores(embeddings.image_features, weights, labels, self.max_scores)
        if embeddings.logit_bias is None:
            return _of_classes(dataset, scores, embeddings.logit_scale)
        return _of_pairs(dataset, scores, embeddings.logit_scale, embeddings.logit_bias)


@dataclass(frozen=True)
class Scores:
    """The cosines of all images with all classes, a chunk at a time."""

    images: Tensor  # [N, E]
    weights: Tensor  # [C, E]
    labels: Tensor  # [N]
    max_scores: int

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield a slice of the images, their cosines, float64 [n, C], and their labels [n, 1]."""
        for rows, scores in score_chunks(self.images, self.weights, self.max_scores):
            yield rows, scores.double(), self.labels[rows, None]


class Gaps:
    """Accuracy less confidence, in bins (lo, hi] of equal width, by image: what the calibration error is a sum of.

    Its call is the expected calibration error under weights of the images: sum over bins of |accuracy - confidence|
    times the bin's share (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    """

    def __init__(self, images: int) -> None:
        """Begin with no observation."""
        self.edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
        self.correct, self.confidence, self.count = (torch.zeros(images, BINS, dtype=torch.float64) for _ in range(3))

    def add(self, images: slice, confidence: Tensor, correct: Tensor) -> None:
        """Count k observations of each of these images; float64 [n, k]."""
        place = torch.bucketize(confidence, self.edges[1:-1])
        self.correct[images].scatter_add_(1, place, correct)
        self.confidence[images].scatter_add_(1, place, confidence)
        self.count[images].scatter_add_(1, place, torch.ones_like(correct))

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the error under weights [b, N], [b]."""
        gaps = (weights @ (self.correct - self.confidence)).abs().sum(1)
        return gaps / (weights @ self.count.sum(1))

    def as_details(self) -> dict[str, list[Any]]:
        """Return {edges, count, accuracy, confidence}; None in bins that are empty."""
        count, correct, confidence = (table.sum(0) for table in (self.count, self.correct, self.confidence))
        return {
            "edges": self.edges.tolist(),
            "count": [int(n) for n in count],
            "accuracy": [float(a / n) if n else None for a, n in zip(correct, count, strict=True)],
            "confidence": [float(c / n) if n else None for c, n in zip(confidence, count, strict=True)],
        }

    def largest(self) -> float:
        """Return the largest gap of a bin that is not empty (maximum calibration error)."""
        count = self.count.sum(0)
        gaps = (self.correct - self.confidence).sum(0).abs() / count.clamp_min(1)
        return float(gaps.max())


class _Predictions(NamedTuple):
    """What a softmax over the classes gives each image; float64 [N]. `correct` is 1 / n where n classes are level."""

    confidence: Tensor
    correct: Tensor
    nll: Tensor
    brier: Tensor

    def gaps(self) -> Gaps:
        gaps = Gaps(len(self.correct))
        gaps.add(slice(None), self.confidence[:, None], self.correct[:, None])
        return gaps


def _predictions(scores: Scores, scale: Tensor) -> _Predictions:
    """Return the predictions where the cosines of image i are multiplied by scale[i]."""
    parts = []
    for rows, cosines, labels in scores:
        log_probabilities = (cosines * scale[rows, None]).log_softmax(1)
        probabilities = log_probabilities.exp()
        own = log_probabilities.gather(1, labels)[:, 0]
        brier = probabilities.square().sum(1) - 2 * own.exp() + 1
        parts.append((probabilities.amax(1), expected_hit(cosines, labels[:, 0]), -own, brier))
    return _Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_classes(dataset: EvalDataset, scores: Scores, scale: float) -> Result:
    images, classes = len(scores.labels), len(scores.weights)
    found = _predictions(scores, torch.full((images,), scale, dtype=torch.float64))
    gaps = found.gaps()
    estimates: dict[str, Estimate] = {"ece": gaps, "brier": Mean(found.brier), "nll": Mean(found.nll)}
    metrics = {
        "ece": float(gaps(torch.ones(1, images, dtype=torch.float64))),
        "adaptive_ece": _adaptive(found),
        "mce": gaps.largest(),
        "brier": float(found.brier.mean()),
        "nll": float(found.nll.mean()),
        "confidence": float(found.confidence.mean()),
    }
    if images > 1:  # there are two halves
        half = halves(dataset)
        fitted = fitted_scales(scores, half, scale)
        after = _predictions(scores, fitted.flip(0)[half]).gaps()
        metrics["ece_after_scaling"] = float(after(torch.ones(1, images, dtype=torch.float64)))
        metrics["temperature"] = float(scale / fitted.log().mean().exp())
    return Result(
        metrics=metrics,
        chance={"brier": 1 - 1 / classes, "nll": math.log(classes)},
        details={"counts": _counts(dataset, scale), "reliability": gaps.as_details()},
        estimates=estimates,
        clusters=images,
    )


def _of_pairs(dataset: EvalDataset, scores: Scores, scale: float, bias: float) -> Result:
    images, classes = len(scores.labels), len(scores.weights)
    gaps, parts = Gaps(images), []
    for rows, cosines, labels in scores:
        logits = cosines * scale + bias
        truth = torch.zeros_like(logits).scatter_(1, labels, 1)
        probabilities = logits.sigmoid()
        gaps.add(rows, probabilities, truth)
        nll = -logsigmoid(torch.where(truth > 0, logits, -logits))
        parts.append((nll.mean(1), (probabilities - truth).square().mean(1)))
    nll, brier = (torch.cat(column) for column in zip(*parts, strict=True))
    share = 1 / classes
    rest = -(1 - share) * math.log1p(-share) if classes > 1 else 0.0
    return Result(
        metrics={
            "pair_ece": float(gaps(torch.ones(1, images, dtype=torch.float64))),
            "pair_mce": gaps.largest(),
            "pair_brier": float(brier.mean()),
            "pair_nll": float(nll.mean()),
        },
        chance={"pair_brier": share * (1 - share), "pair_nll": share * math.log(classes) + rest},
        details={"counts": _counts(dataset, scale), "reliability": gaps.as_details()},
        estimates={"pair_ece": gaps, "pair_brier": Mean(brier), "pair_nll": Mean(nll)},
        clusters=images,
    )


def _counts(dataset: EvalDataset, scale: float) -> dict[str, float]:
    return {"images": len(dataset), "classes": len(dataset.classnames), "logit_scale": scale}


def _adaptive(found: _Predictions) -> float:
    """Return the calibration error in bins of equal numbers of images; equal confidences share a bin."""
    _, place, counts = found.confidence.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - counts / 2  # of each value's images, in the order of confidence
    bins = (middle.double() * BINS / len(place)).long()
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins[place], found.correct - found.confidence)
    return float(gaps.abs().sum()) / len(place)


def halves(dataset: EvalDataset) -> Tensor:
    """Return 0 or 1 for each image, by the hash of its name: not by its place, which often tells the class."""
    names = [hashlib.blake2b(image.name.encode()).digest() for image in dataset.images]
    half = torch.empty(len(names), dtype=torch.int64)
    half[torch.tensor(sorted(range(len(names)), key=names.__getitem__))] = torch.arange(len(names)) % 2
    return half


def fitted_scales(scores: Scores, half: Tensor, scale: float) -> Tensor:
    """Return the scale of least NLL on each half, float64 [2].

    The NLL is convex in the scale: Newton's steps, and where one leaves what is known to hold the minimum, its middle.
    Where everything is right there is no minimum, and the end of the search is returned.
    """
    low = torch.full((2,), scale / SEARCH, dtype=torch.float64)
    high, at = low * SEARCH**2, low * SEARCH
    for _ in range(FIT_STEPS):
        slope, curvature = _slopes(scores, half, at)
        low, high = torch.where(slope <= 0, at, low), torch.where(slope >= 0, at, high)
        step = at - slope / curvature
        inside = (step > low) & (step < high)
        moved = torch.where(inside, step, (low * high).sqrt())  # not finite is not inside
        done = bool(((moved / at - 1).abs() < FIT_TOLERANCE).all())
        at = moved
        if done:
            break
    return at


def _slopes(scores: Scores, half: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivative of each half's NLL by its scale: a mean and a variance of cosines."""
    slope, curvature = torch.zeros(2, 2, dtype=torch.float64)
    for rows, cosines, labels in scores:
        probabilities = (cosines * scale[half[rows], None]).softmax(1)
        mean = (probabilities * cosines).sum(1)
        variance = (probabilities * (cosines - mean[:, None]).square()).sum(1)
        slope.index_add_(0, half[rows], mean - cosines.gather(1, labels)[:, 0])
        curvature.index_add_(0, half[rows], variance)
    return slope, curvature
