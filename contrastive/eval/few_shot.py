"""The linear probe on a few images of each class, averaged over draws. N images, C classes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.accuracy import Split, splits
from contrastive.eval.embed import Embeddings
from contrastive.eval.linear_probe import default_device
from contrastive.eval.logistic import Problem, augmented
from contrastive.eval.rank_metrics import Figures
from contrastive.eval.ranking import MAX_SCORES, rank
from contrastive.eval.result import Result

SHOTS, SEEDS = (1, 2, 4, 8, 16), 5


class FewShot:
    """Top-1 of the linear probe on 1, 2, 4, 8 and 16 training images a class, the mean over 5 draws of them.

    The strength is fixed, as so few images leave none to choose it on: 1, scikit-learn's C = 1 on features of length 1
    (Tian et al. 2020, "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?"). The draws of more
    images hold those of fewer. `_std` is the standard deviation over the draws (n - 1).
    """

    def __init__(
        self,
        shots: tuple[int, ...] = SHOTS,
        seeds: int = SEEDS,
        strength: float = 1.0,
        device: str | None = None,
        max_scores: int = MAX_SCORES,
    ) -> None:
        """`seeds`: how many draws. `device`: None is the GPU, where there is one."""
        if not shots or min(shots) < 1 or seeds < 1 or strength <= 0:
            raise ValueError(
                f"shots: {list(shots)} and seeds: {seeds} must be at least 1, strength: {strength} above 0"
            )
        self.shots, self.seeds, self.strength = tuple(sorted(set(shots))), seeds, strength
        self.device, self.max_scores = default_device(device), max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts and the figures of every draw.

        Raises:
            ConfigError: there is no training split, or a class of it has too few images.
            DataError: an image has a class that the training split lacks.
        """
        train, test, _ = splits(embeddings, "few_shot")
        self._check(embeddings, train)
        orders = [_shuffled(train.labels, seed) for seed in range(self.seeds)]
        figures, cluster, curve = Figures(), torch.arange(len(test)), []
        for shots in self.shots:
            hits = torch.stack([self._hits(train, test, order, shots) for order in orders])  # [seeds, N]
            figures.add_mean(f"few_shot_top1@{shots}", hits.mean(0), cluster, 1 / len(test.numbers))
            found = hits.mean(1)
            if self.seeds > 1:
                figures.metrics[f"few_shot_top1@{shots}_std"] = float(found.std())
            curve.append({"shots": shots, "top1": found.tolist()})
        counts = {
            "images": len(test),
            "classes": len(test.numbers),
            "train_images": len(train),
            "draws": self.seeds,
            "strength": self.strength,
        }
        details = {"counts": counts, "few_shot": curve}
        return Result(figures.metrics, figures.chance, details, figures.estimates, len(test))

    def _check(self, embeddings: Embeddings, train: Split) -> None:
        sizes, most = torch.bincount(train.labels), self.shots[-1]
        few = (sizes < most).nonzero().flatten().tolist()
        if few:
            dataset = embeddings.dataset
            name = dataset.classnames[int(train.numbers[few[0]])]
            raise ConfigError(
                f"dataset {dataset.spec.name}: task few_shot: shots: {most} images of each class are asked for, and "
                f"class {name!r} has {int(sizes[few[0]])} in train_split {dataset.spec.train_split!r} ({len(few)} such "
                "classes); lower shots"
            )

    def _hits(self, train: Split, test: Split, order: Sequence[Tensor], shots: int) -> Tensor:
        """Return the probability of a hit of each image, after the first `shots` of each class were learned."""
        chosen = torch.cat([rows[:shots] for rows in order])
        problem = Problem(train.features[chosen], train.labels[chosen], len(train.numbers), self.device)
        classes = problem.fit(self.strength).documents()
        positives = [(label,) for label in test.labels.tolist()]
        return rank(augmented(test.features), classes, positives, self.max_scores).hits(1)


def _shuffled(labels: Tensor, seed: int) -> list[Tensor]:
    """Return the rows of each class in the random order of this draw."""
    groups = [(labels == label).nonzero().flatten() for label in labels.unique().tolist()]
    return [
        rows[torch.from_numpy(np.random.default_rng([seed, label]).permutation(len(rows)))]
        for label, rows in enumerate(groups)
    ]
