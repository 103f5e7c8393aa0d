"""One look at all scores of one modality against the other: the nearest ten of each query, and its log-sum-exp.

Q queries, M documents, E embed_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.eval.ranking import MAX_SCORES, highest, scored

NEIGHBOURS = 10


@dataclass(frozen=True)
class Neighbours:
    """`found` [M]: of how many queries each document is among the nearest ten.

    `log_sum` [Q]: log sum exp of the logits of all documents, float64; empty without a temperature.
    """

    found: Tensor
    log_sum: Tensor

    def log_sum_of(self, query: Tensor, logits: Tensor) -> Tensor:
        """Return log sum exp of chosen logits [P] of each query, given by number; -inf where it has none. [Q]."""
        count = len(self.log_sum)
        best = torch.full((count,), -torch.inf, dtype=torch.float64).scatter_reduce(0, query, logits, "amax")
        total = torch.zeros(count, dtype=torch.float64).index_add(0, query, (logits - best[query]).exp())
        return best + total.log()


def look(queries: Tensor, documents: Tensor, scale: float | None, max_scores: int = MAX_SCORES) -> Neighbours:
    """Score every document for every query, a chunk at a time; `scale` multiplies the cosines in the log-sum-exp."""
    found = torch.zeros(len(documents), dtype=torch.int64)
    log_sums = [torch.empty(0, dtype=torch.float64)]
    for _, scores in scored(queries, documents, max_scores):
        values, columns = highest(scores, min(NEIGHBOURS, len(documents)))
        found += torch.bincount(columns.flatten(), minlength=len(documents))
        if scale is not None:
            best = values[:, :1]
            # In place: as many fresh pages cost more than the exponentials. At most M terms, each at most 1.
            total = scores.sub_(best).mul_(scale).exp_().sum(1)
            log_sums.append(scale * best[:, 0].double() + total.double().log())
    return Neighbours(found, torch.cat(log_sums))


def skewness(counts: Tensor) -> float:
    """Return the third standardised moment; 0 where all are equal."""
    distance = counts.double() - counts.double().mean()
    deviation = float(distance.square().mean().sqrt())
    return float(distance.pow(3).mean()) / deviation**3 if deviation else 0.0
