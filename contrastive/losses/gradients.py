"""What the pairwise losses share: gradients that the forward pass already knows, figures to log, complaints."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.losses.repeats import Repeats
from contrastive.losses.tiles import Pairs


def with_gradients(loss: Tensor, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> Tensor:
    """Return `loss` with these gradients by these inputs, for a backward pass that has only to multiply them.

    So no collective runs inside backward, where it could meet those of DDP in another order on another rank.
    """
    both = [(x, g) for x, g in zip(inputs, gradients, strict=True) if x is not None and g is not None]
    return _Attach.apply(loss, [g for _, g in both], *[x for x, _ in both])  # type: ignore[no-any-return]


def is_asked(x: Tensor | None) -> bool:
    """Whether the gradient by an input of a loss will be wanted."""
    return x is not None and x.requires_grad and torch.is_grad_enabled()


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*[g.to(x.dtype).view_as(x) for g, x in zip(gradients, inputs, strict=True)])
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradient * outer.to(gradient.dtype) for gradient in ctx.saved_tensors)


def unusable(given: Mapping[str, Tensor]) -> str:
    """Return what to say of features with which a loss is not a number."""
    both = {name: features for name, features in given.items() if name.endswith("_features")}
    for name, features in both.items():
        bad = (~features.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if bad:
            which = f"row {bad[0]}" if len(bad) == 1 else f"{len(bad)} of {len(features)} rows, the first is {bad[0]}"
            return f"{name} hold NaN or infinity ({which}); the weights or the inputs are broken"
    norm = max(float(features.norm(dim=1).max()) if len(features) else 0.0 for features in both.values())
    if norm > 2:
        return f"features must have length 1, and one has {norm:.3g}; normalise them"
    return "the features of another process hold NaN or infinity, or logit_scale is no number"


def figures(pairs: Pairs, repeats: Repeats | None, own: Tensor, again: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Return what to log, such that the mean over ranks is a figure of the global batch.

    `own` and `again` are sums of the scores of pairs and of repeats, `right` [b] says which images are matched. Gives
    `accuracy`, `positive_similarity` and `negative_similarity` (mean cosines; repeats count as neither), `duplicates`.
    """
    samples = len(pairs.text)
    same = right.new_tensor(samples, dtype=torch.int64) if repeats is None else repeats.count.sum()
    others = samples**2 - same
    wrong = pairs.total_similarity() - (own + again) / pairs.scale
    terms = {
        "accuracy": 2 * pairs.share * right.sum(),
        "positive_similarity": 2 * pairs.share * own / pairs.scale,
        "negative_similarity": len(pairs.counts) * wrong / others.clamp(min=1),
    }
    if repeats is not None:
        terms["duplicates"] = 2 * pairs.share * repeats.rows.sum()
    return {name: value.to(pairs.dtype) for name, value in terms.items()}
