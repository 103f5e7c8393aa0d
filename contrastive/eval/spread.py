"""How features of length 1 fill their space: uniformity, effective rank, separability, projection. N rows, E width."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contrastive.eval.ranking import MAX_SCORES

SHOWN_PAIRS = 500
PIECE = 1 << 14  # rows that become float64 at once: 64 MiB at E = 512


def total(rows: Tensor) -> Tensor:
    """Return the sum of all rows, float64 [E]."""
    return torch.stack([piece.double().sum(0) for piece in rows.split(PIECE)]).sum(0)


def uniformity(rows: Tensor, sample: int, seed: int, max_scores: int = MAX_SCORES) -> float:
    """Return log mean exp(-2 ||a - b||^2) over all pairs of different rows (Wang and Isola 2020, section 4.1).

    0 where all rows are equal, about -4 where many are spread evenly. `sample` rows are drawn where there are more.
    """
    if len(rows) > sample:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:sample]]
    count, total = len(rows), 0.0
    step = max(1, max_scores // count)
    for start in range(0, count, step):
        # Each pair once: of the columns from `start` on, those to the right of the diagonal.
        closeness = (rows[start : start + step] @ rows[start:].T).sub_(1).mul_(4).clamp_max_(0).exp_()
        total += float(closeness.triu_(1).sum(1).double().sum())
    return float(torch.tensor(total / (count * (count - 1) / 2), dtype=torch.float64).log())


def effective_rank(rows: Tensor) -> float:
    """Return exp of the entropy of the singular values of the centred rows, as shares of their sum; 1 to E.

    Roy and Vetterli 2007, https://ieeexplore.ieee.org/document/7098875, of which RankMe (Garrido et al. 2023) made a
    measure of representations. In float64, through QR of a piece at a time: E x E is all that is held.
    """
    width = rows.shape[1]
    mean = total(rows) / len(rows)
    factor = torch.empty(0, width, dtype=torch.float64)
    for piece in rows.split(4 * width):
        factor = torch.linalg.qr(torch.cat([factor, piece.double() - mean]), mode="r").R
    values = torch.linalg.svdvals(factor)
    # What centring leaves of nothing is noise of float64: a direction that no row has.
    values = values[values > values[0] * 1e-12] if values[0] > 0 else values[:1] + 1
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def separability(images: Tensor, texts: Tensor) -> float:
    """Return how many rows the plane between the two means puts on the right side, a mean over both modalities."""
    centres = total(images) / len(images), total(texts) / len(texts)
    normal = centres[0] - centres[1]
    middle = (centres[0] + centres[1]) / 2 @ normal
    sides = [(rows @ normal.float()).double() - middle for rows in (images, texts)]
    right = ((side > 0).double() + (side == 0) / 2 for side in (sides[0], -sides[1]))
    return float(sum(values.mean() for values in right)) / 2


def projection(images: Tensor, texts: Tensor, pairs: Tensor, seed: int) -> Mapping[str, Any]:
    """Return up to 500 pairs, a seeded choice, in the plane of the greatest variance of both their modalities.

    `image` and `text` are points; `pairs` are numbers of these; `explained` is each axis's share of the variance.
    """
    chosen = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:SHOWN_PAIRS].sort().values
    image, first = pairs[chosen, 0].unique(return_inverse=True)
    text, second = pairs[chosen, 1].unique(return_inverse=True)
    points = torch.cat([images[image], texts[text]]).double()
    points -= points.mean(0)
    _, values, axes = torch.linalg.svd(points, full_matrices=False)
    axes = axes[:2]
    axes *= axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # an axis has no direction of its own
    places = torch.nn.functional.pad(points @ axes.T, (0, 2 - len(axes)))
    variance = values.square()
    explained = torch.nn.functional.pad(variance[:2], (0, 2 - len(axes))) / variance.sum().clamp_min(1e-300)
    return {
        "image": places[: len(image)].tolist(),
        "text": places[len(image) :].tolist(),
        "pairs": torch.stack([first, second], 1).tolist(),
        "explained": explained.tolist(),
    }
