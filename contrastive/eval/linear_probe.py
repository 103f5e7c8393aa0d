"""A linear classifier on frozen image features, its regularisation chosen as Radford et al. 2021 did.

N images, C classes, E embed_dim.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.accuracy import Split, accuracy, prediction_rows, splits
from contrastive.eval.embed import Embeddings
from contrastive.eval.logistic import ITERATIONS, Logistic, Problem, augmented, losses
from contrastive.eval.ranking import MAX_SCORES, rank, search
from contrastive.eval.result import Result

STEPS_A_DECADE, DECADES = 8, (-6, 6)
GRID = [10 ** (DECADES[0] + step / STEPS_A_DECADE) for step in range((DECADES[1] - DECADES[0]) * STEPS_A_DECADE + 1)]
COARSE = 2 * STEPS_A_DECADE
HELD_OUT = 0.1  # of the training images, where there is no val split


class Tried(NamedTuple):
    """A strength that was tried, and what the images held out say of it."""

    strength: float
    top1: float
    loss: float
    fit: Logistic


class LinearProbe:
    """Multinomial logistic regression on the L2-normalised image features, regularised by L2.

    The strength is chosen on `val_split`, or on a tenth of the training images, class by class; then the classifier is
    fitted on both together. Features are those of the shared space; papers that probe the layer before its projection
    get other figures.
    """

    def __init__(
        self,
        strength: float | None = None,
        device: str | None = None,
        seed: int = 0,
        iterations: int = ITERATIONS,
        max_scores: int = MAX_SCORES,
    ) -> None:
        """`strength`: fixed instead of chosen. `device`: None is the GPU, where there is one. `seed`: of the tenth."""
        if strength is not None and strength <= 0:
            raise ValueError(f"strength: {strength} must be above 0")
        self.strength, self.seed, self.iterations, self.max_scores = strength, seed, iterations, max_scores
        self.device = default_device(device)

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts and how the strength was chosen.

        Raises:
            ConfigError: there is no training split, or too little in it to hold something out.
            DataError: an image has a class that the training split lacks.
        """
        train, test, val = splits(embeddings, "linear_probe")
        curve: list[Tried] = []
        if self.strength is None:
            known, held_out = (train, val) if val is not None else self._divided(embeddings, train)
            curve = self._tried(known, held_out)
        best = max(curve, key=_quality, default=None)
        strength = best.strength if best is not None else float(self.strength or 0)
        whole = _joined(train, val)
        fit = self._problem(whole).fit(strength, best.fit if best is not None else None, self.iterations)
        positives = [(label,) for label in test.labels.tolist()]
        found = search(augmented(test.features), fit.documents(), positives, self.max_scores)
        figures = accuracy(found.ranks, test, "probe")
        details = {
            "counts": {
                "images": len(test),
                "classes": len(test.numbers),
                "train_images": len(train),
                "val_images": 0 if val is None else len(val),
                "strength": strength,
            },
            "probe": {"loss": fit.loss, "iterations": fit.iterations, "curve": _shown(curve)},
        }
        rows = {"probe_predictions": prediction_rows(embeddings, test, found.documents[:, 0], found.ranks)}
        return Result(figures.metrics, figures.chance, details, figures.estimates, len(test), rows)

    def _problem(self, split: Split) -> Problem:
        return Problem(split.features, split.labels, len(split.numbers), self.device)

    def _tried(self, known: Split, held_out: Split) -> list[Tried]:
        """Return the strengths that the search looked at, rising."""
        problem = self._problem(known)
        positives = [(label,) for label in held_out.labels.tolist()]
        found: dict[int, Tried] = {}

        def quality(step: int) -> tuple[float, float]:
            # The neighbour's optimum is near, and a fit from there takes half the steps of one from nowhere.
            near = min(found, key=lambda other: abs(other - step), default=None)
            fit = problem.fit(GRID[step], None if near is None else found[near].fit, self.iterations)
            ranks = rank(augmented(held_out.features), fit.documents(), positives, self.max_scores)
            loss = float(losses(fit, held_out.features, held_out.labels).double().mean())
            found[step] = Tried(GRID[step], float(ranks.hits(1).mean()), loss, fit)
            return _quality(found[step])

        bracket_search(quality)
        return [found[step] for step in sorted(found)]

    def _divided(self, embeddings: Embeddings, train: Split) -> tuple[Split, Split]:
        """Return nine tenths and a tenth of each class; a class of one image is only learned from."""
        held = _held_out(train.labels, self.seed)
        if not held.any():
            name = embeddings.dataset.spec.name
            rule = "set val_split, strength, or give it two images of a class"
            raise ConfigError(f"dataset {name}: task linear_probe can hold out no training image: {rule}")
        parts = [Split(train.features[which], train.labels[which], train.numbers) for which in (~held, held)]
        return parts[0], parts[1]


def bracket_search(quality: Callable[[int], Any]) -> int:
    """Return the step of GRID of the highest quality near the peak of a coarse look (Radford et al. 2021, A.3).

    Every 16th step is looked at, one every two decades; then both neighbours of the best, at half the distance
    each time, down to 1. Steps come from strong to weak regularisation.
    """
    known = {step: quality(step) for step in range(len(GRID) - 1, -1, -COARSE)}
    distance = COARSE // 2
    while distance:
        peak = max(known, key=known.__getitem__)
        for step in (peak + distance, peak - distance):
            if 0 <= step < len(GRID) and step not in known:
                known[step] = quality(step)
        distance //= 2
    return max(known, key=known.__getitem__)


def default_device(device: str | None) -> torch.device:
    """Return the device by name; None is this process's GPU, where there is one.

    Raises:
        ValueError: there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    if device is None:
        return torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not has_gpu):
        raise ValueError(f"device: {device!r} is not here; write cpu{', cuda' if has_gpu else ''} or leave it out")
    return torch.device(device)


def _quality(tried: Tried) -> tuple[float, float]:
    """Return what is compared: the accuracy; where that is level, the loss."""
    return tried.top1, -tried.loss


def _held_out(labels: Tensor, seed: int) -> Tensor:
    """Return which rows are held out: a tenth of each class, at least one of two, none of one. Bool [N]."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        count = max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0
        chosen = np.random.default_rng([seed, label]).permutation(len(rows))[:count]
        held[rows[torch.from_numpy(chosen)]] = True
    return held


def _joined(train: Split, val: Split | None) -> Split:
    if val is None:
        return train
    return Split(torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels]), train.numbers)


def _shown(curve: list[Tried]) -> list[dict[str, float]]:
    return [
        {"strength": one.strength, "val_top1": one.top1, "val_loss": one.loss, "iterations": one.fit.iterations}
        for one in curve
    ]
