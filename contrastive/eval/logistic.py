"""Multinomial logistic regression on features, to its optimum, in float64: no learning rate, no random number.

The objective is scikit-learn's with C = 1 / strength: the sum of the cross-entropies plus strength / 2 ||W||^2, the
intercepts free. n rows, E embed_dim, C classes, R directions that the rows span.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PIECE = 1 << 21  # of features or logits held in float64 at once: 16 MiB
ITERATIONS = 1000  # as Radford et al. 2021, A.3
TOLERANCE = 2e-3  # of the gradient's length, in shares of the loss: within 1e-5 of the optimum, as tests show
CHANGE = 1e-7  # of the loss, over a round of steps, below which no better is to be had
ROUND = 20  # steps between two looks at the loss
SPANNED = 1e-10  # of the largest variance: below it a direction holds float32 noise, or nothing


@dataclass(frozen=True)
class Logistic:
    """Weights [C, E] and intercepts [C], float64 on the CPU; `loss` is the objective divided by n."""

    weight: Tensor
    bias: Tensor
    loss: float
    iterations: int

    def documents(self) -> Tensor:
        """Return the classes as vectors [C, E + 1], float32, whose products with `augmented` features are logits."""
        return torch.cat([self.weight, self.bias[:, None]], 1).float()


class Problem:
    """Rows and labels, made ready once for fits of any strength.

    Rows are centred (the intercepts take it up) and turned onto their principal directions, where directions without
    variance are left out: they have no weight in the optimum. A scale for each direction then makes the problem round:
    L-BFGS takes tens of steps where the raw features, which lie in a narrow cone, take hundreds.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, device: torch.device) -> None:
        """Take features float32 [n, E] and labels int64 [n] of 0 to classes - 1, each of which has a row."""
        self.labels, self.classes = labels.to(device), classes
        self.mean = _summed(features) / len(features)
        width = features.shape[1]
        scatter = torch.zeros(width, width, dtype=torch.float64)
        for piece in features.split(max(1, PIECE // width)):
            centred = piece.double() - self.mean
            scatter += centred.T @ centred
        variance, axes = torch.linalg.eigh(scatter / len(features))
        kept = variance > variance[-1] * SPANNED
        self.variance, self.axes = variance[kept].to(device), axes[:, kept]  # [R], [E, R]
        pieces = features.split(max(1, PIECE // width))
        self.rows = torch.cat([((piece.double() - self.mean) @ self.axes).float() for piece in pieces]).to(device)

    def fit(self, strength: float, start: Logistic | None = None, iterations: int = ITERATIONS) -> Logistic:
        """Return the optimum for `strength`; `start` is where the search begins, and does not change where it ends."""
        scale = (self.variance / self.classes + strength / len(self.rows)).rsqrt()  # [R]
        size = len(scale) + 1
        point = torch.zeros(size, self.classes, dtype=torch.float64, device=self.rows.device)
        if start is not None:
            point[:-1] = (self.axes.T @ start.weight.T).to(point.device) / scale[:, None]
            point[-1] = (start.bias + start.weight @ self.mean).to(point.device)
        point.requires_grad_()
        search = torch.optim.LBFGS([point], tolerance_change=0.0, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            loss, point.grad = self._objective(point.detach(), scale, strength)
            return loss

        done, before, loss = 0, float("inf"), float(closure())
        while done < iterations and before - loss > CHANGE * loss and _steepness(point) > TOLERANCE * loss:
            # What is near enough depends on the loss, which is not known beforehand: it falls from 1 to 1e-5.
            search.param_groups[0]["tolerance_grad"] = TOLERANCE * loss / point.numel() ** 0.5  # of the largest entry
            search.param_groups[0]["max_iter"] = min(ROUND, iterations - done)
            search.step(closure)
            done, before, loss = int(search.state[point]["n_iter"]), loss, float(closure())
        weight = (self.axes @ (point.detach()[:-1] * scale[:, None]).cpu()).T  # [C, E]
        bias = point.detach()[-1].cpu() - weight @ self.mean
        return Logistic(weight, bias - bias.mean(), loss, done)

    def _objective(self, point: Tensor, scale: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return the objective / n and its gradient, without a graph: twice as fast, and in bounded memory."""
        weight = point[:-1] * scale[:, None]
        loss = strength / 2 * weight.square().sum()
        gradient = torch.cat([strength * weight, torch.zeros_like(point[-1:])])
        step = max(1, PIECE // max(len(weight), self.classes))
        for rows, labels in zip(self.rows.split(step), self.labels.split(step), strict=True):
            known = rows.double()
            logits = torch.addmm(point[-1], known, weight)  # [n, C]
            log_sum = logits.logsumexp(1, keepdim=True)
            loss += (log_sum[:, 0] - logits.gather(1, labels[:, None])[:, 0]).sum()
            excess = logits.sub_(log_sum).exp_()
            excess.scatter_add_(1, labels[:, None], excess.new_full((len(labels), 1), -1.0))
            gradient[:-1].addmm_(known.T, excess)
            gradient[-1] += excess.sum(0)
        gradient[:-1] *= scale[:, None]
        return loss / len(self.rows), gradient / len(self.rows)


def _steepness(point: Tensor) -> float:
    assert point.grad is not None
    return float(point.grad.norm())


def augmented(features: Tensor) -> Tensor:
    """Return the features with a 1 behind them [N, E + 1], so that a product with a class adds its intercept."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def losses(found: Logistic, features: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row, float32 [n]."""
    documents, step = found.documents(), max(1, PIECE // len(found.bias))
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(augmented(rows) @ documents.T, own, reduction="none")
            for rows, own in zip(features.split(step), labels.split(step), strict=True)
        ]
    )


def _summed(features: Tensor) -> Tensor:
    return torch.stack([piece.double().sum(0) for piece in features.split(max(1, PIECE // features.shape[1]))]).sum(0)
