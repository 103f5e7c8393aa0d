"""What the pairwise losses share: gradients that the forward pass already knows, figures to log, complaints."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.errors import RunError
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


def not_a_number(features: Mapping[str, Tensor], inputs: Sequence[Tensor | None]) -> Tensor:
    """Return a loss that is NaN, and so are its gradients by `inputs`: what follows is for the step to decide.

    A loss that raised on features that are not finite would leave no choice, and DDP without its backward pass.

    Raises:
        RunError: see `require_unit_length`.
    """
    require_unit_length(features)
    given = [x for x in inputs if x is not None]
    return torch.stack([x.sum().to(given[0].dtype) for x in given]).sum() * torch.nan


@torch.no_grad()
def require_unit_length(features: Mapping[str, Tensor]) -> None:
    """Refuse finite features whose length made a loss no number.

    Raises:
        RunError: one is far from unit length.
    """
    lengths = [x.norm(dim=1).max() for name, x in features.items() if name.endswith("_features") and len(x)]
    if all(length.isfinite() for length in lengths):
        longest = max((float(length) for length in lengths), default=0.0)
        if longest > 2:
            raise RunError(f"features must have length 1, and one has {longest:.3g}; normalise them")


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
