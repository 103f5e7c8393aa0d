"""What is taken for what: the confusion matrix, its worst cells, and recall and precision of every class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_CONFUSION = 200  # classes; a larger matrix says less than its most confused pairs
MAX_PAIRS = 40


class Confusions(NamedTuple):
    """How many images of each class were predicted as each other; only cells that are not empty, all [cells]."""

    label: Tensor
    predicted: Tensor
    n: Tensor

    @classmethod
    def of(cls, labels: Tensor, predicted: Tensor, classes: int) -> "Confusions":
        """Return the cells, by label and then by prediction."""
        cells, counts = torch.unique(labels * classes + predicted, return_counts=True)
        return cls(cells // classes, cells % classes, counts)

    def as_details(self, classnames: Sequence[str]) -> dict[str, Any]:
        """Return class names, counts[label][prediction] (empty above MAX_CONFUSION classes) and the worst pairs."""
        label, predicted, n = (column[self._wrong()[:MAX_PAIRS]].tolist() for column in self)
        pairs = [
            {"label": classnames[right], "predicted": classnames[wrong], "n": count}
            for right, wrong, count in zip(label, predicted, n, strict=True)
        ]
        classes = len(classnames)
        if classes > MAX_CONFUSION:
            return {"classes": [], "counts": [], "pairs": pairs}
        matrix = torch.zeros(classes, classes, dtype=torch.int64)
        matrix[self.label, self.predicted] = self.n
        return {"classes": list(classnames), "counts": matrix.tolist(), "pairs": pairs}

    def per_class(self, classnames: Sequence[str], hits: Tensor) -> list[dict[str, Any]]:
        """Return {name, n, recall, precision, top_confusion} a class; None where nothing is counted.

        `hits` [C]: the expected number of each class's images that were right. Precision counts the predictions.
        """
        classes = len(classnames)
        sizes, predicted, right = (torch.zeros(classes, dtype=torch.int64) for _ in range(3))
        sizes.index_add_(0, self.label, self.n)
        predicted.index_add_(0, self.predicted, self.n)
        diagonal = self.label == self.predicted
        right[self.label[diagonal]] = self.n[diagonal]
        worst: dict[int, dict[str, Any]] = {}
        label, other, n = (column[self._wrong()].tolist() for column in self)
        for cell, mistaken, count in zip(label, other, n, strict=True):
            worst.setdefault(cell, {"name": classnames[mistaken], "n": count})
        return [
            {
                "name": name,
                "n": int(sizes[c]),
                "recall": float(hits[c] / sizes[c]) if sizes[c] else None,
                "precision": float(right[c] / predicted[c]) if predicted[c] else None,
                "top_confusion": worst.get(c),
            }
            for c, name in enumerate(classnames)
        ]

    def _wrong(self) -> Tensor:
        """Return the indices of the cells off the diagonal, the fullest first."""
        wrong = (self.label != self.predicted).nonzero().flatten()
        return wrong[self.n[wrong].argsort(descending=True, stable=True)]
