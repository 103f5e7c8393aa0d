"""Classification by the nearest training images, weighted. N images, n training images, C classes, E embed_dim."""

import faiss
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.accuracy import accuracy, prediction_rows, splits
from contrastive.eval.embed import Embeddings
from contrastive.eval.ranking import MAX_SCORES, Ranks
from contrastive.eval.result import Result


class NearestNeighbours:
    """Votes of the k nearest training images by cosine, each with weight exp(cosine / temperature).

    As Caron et al. 2021 (DINO), section 4.1, after Wu et al. 2018. The neighbours are exact; of images that are level
    at the k-th place, those that faiss finds first vote. Classes with as many votes are a tie, by expectation.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07, max_scores: int = MAX_SCORES) -> None:
        if k < 1 or temperature <= 0:
            raise ValueError(f"k: {k} must be at least 1, and temperature: {temperature} above 0")
        self.k, self.temperature, self.max_scores = k, temperature, max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and counts in details.

        Raises:
            ConfigError: there is no training split, or it has fewer than k images.
            DataError: an image has a class that the training split lacks.
        """
        train, test, _ = splits(embeddings, "knn")
        if self.k > len(train):
            name = embeddings.dataset.spec.name
            raise ConfigError(
                f"dataset {name}: task knn: k: {self.k} neighbours of {len(train)} training images; lower k"
            )
        index = faiss.IndexFlatIP(train.features.shape[1])
        index.add(train.features.numpy())
        step = max(1, self.max_scores // max(len(test.numbers), self.k))
        parts = [
            self._voted(index, train.labels, features, labels, len(test.numbers))
            for features, labels in zip(test.features.split(step), test.labels.split(step), strict=True)
        ]
        better, ties, score, predicted = (torch.cat(column) for column in zip(*parts, strict=True))
        ranks = Ranks(better, ties, torch.ones_like(ties), score)
        figures = accuracy(ranks, test, "knn")
        counts = {
            "images": len(test),
            "classes": len(test.numbers),
            "train_images": len(train),
            "neighbours": self.k,
            "tie_rate": ranks.tie_rate,
        }
        rows = {"knn_predictions": prediction_rows(embeddings, test, predicted, ranks)}
        return Result(figures.metrics, figures.chance, {"counts": counts}, figures.estimates, len(test), rows)

    def _voted(
        self, index: faiss.IndexFlatIP, known: Tensor, features: Tensor, labels: Tensor, classes: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return classes above and level with the right one, its votes, and the first class of the most; each [N]."""
        cosines, places = (torch.from_numpy(found) for found in index.search(features.numpy(), self.k))
        # The nearest has weight 1: the same order, and nothing overflows at a low temperature.
        weights = ((cosines - cosines[:, :1]).double() / self.temperature).exp()
        votes = torch.zeros(len(features), classes, dtype=torch.float64).scatter_add(1, known[places], weights)
        right = votes.gather(1, labels[:, None])
        return (votes > right).sum(1), (votes == right).sum(1) - 1, right[:, 0], votes.argmax(1)
