"""The pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, section 3.2), exact at any batch size."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive.errors import ConfigError
from contrastive.losses import repeats as same
from contrastive.losses.gradients import figures, is_asked, require_unit_length, with_gradients
from contrastive.losses.repeats import Duplicates, Ids, Repeats, gather_repeats, names_of
from contrastive.losses.tiles import Pairs, Tile

HIGHEST = 80.0  # float32 holds exp of it


class Sigmoid(nn.Module):
    """Every pair of the global batch on its own: is this the text of this image? Summed, over the number of images.

    Logits are scale * cosine + `logit_bias`, which the model has with `model.init_logit_bias` (-10 in the paper).
    `duplicates`, `duplicates_by` and `tile` are those of `contrastive.losses.infonce.InfoNCE`; with `label_smoothing` e
    the answers are 1 - e/2 and e/2.

    A logit gives its loss and its gradient at once, so every tile is made once: 6 b B E operations, for b samples of
    this rank and B of all, in the memory of two tiles and the gradients of the features. Texts are gathered, their
    gradients summed and scattered; nothing runs inside the backward pass. Ranks may bring different numbers of samples.
    """

    splits_batch = True

    def __init__(
        self,
        duplicates: Duplicates = "positives",
        duplicates_by: Ids | list[Ids] = "caption",
        label_smoothing: float = 0.0,
        tile: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: {label_smoothing} must be at least 0 and less than 1")
        self.duplicates, self.duplicates_by = duplicates, names_of(duplicates, duplicates_by)
        self.label_smoothing, self.tile = label_smoothing, tile

    @staticmethod
    def needs(options: Mapping[str, Any]) -> set[str]:
        """Return what the features and the batch must hold."""
        return {"logit_bias", *same.needs(options)}

    def forward(self, features: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss` and the figures that InfoNCE gives.

        Raises:
            ConfigError: the model has no `logit_bias`.
            RunError: features are far from unit length. With any that are not finite `loss` is NaN, on their rank.
        """
        if "logit_bias" not in features:
            raise ConfigError("losses: sigmoid needs a learned bias; set model.init_logit_bias=-10")
        image, text = features["image_features"], features["text_features"]
        inputs = [image, text, features["logit_scale"], features["logit_bias"]]
        asked = [is_asked(x) for x in inputs]
        with torch.no_grad():
            pairs = Pairs(image, text, inputs[2], self.tile)
            repeats = gather_repeats(batch, self.duplicates_by, pairs.counts)
            if any(asked):
                pairs.want(image=asked[0] or not asked[1], text=asked[1])
            bias = inputs[3].to(pairs.dtype).reshape(())
            sweep = _Sweep(pairs, repeats, bias, self.label_smoothing, masked=self.duplicates == "masked")
            sweep.run(backward=any(asked))
            if not bool(sweep.loss.isfinite()):
                require_unit_length(features)
            terms = figures(pairs, repeats, sweep.own, sweep.again, sweep.best[0] > sweep.best[1])
            terms["loss"] = (2 * pairs.share * sweep.loss).to(pairs.dtype)
            if not any(asked):
                return terms
            doubled = (None if g is None else g.mul_(2) for g in pairs.gradients())
            gradients = [*doubled, 2 * pairs.share * sweep.by_bias]
        return {**terms, "loss": with_gradients(terms["loss"], inputs, gradients)}


class _Sweep:
    """The one pass over the tiles: sums of this rank's rows, and gradients into `pairs`."""

    def __init__(self, pairs: Pairs, repeats: Repeats | None, bias: Tensor, smoothing: float, *, masked: bool) -> None:
        self.pairs, self.repeats, self.bias, self.masked = pairs, repeats, bias, masked
        self.low, self.high = smoothing / 2, 1 - smoothing / 2
        self.is_bounded = float(1.01 * pairs.scale + bias) < HIGHEST  # of unit vectors
        self.loss, self.own, self.again, self.by_bias = torch.zeros(4, dtype=torch.float64, device=bias.device)
        self.best = torch.full((2, len(pairs.image)), -torch.inf, dtype=pairs.dtype, device=bias.device)

    def run(self, *, backward: bool) -> None:
        """Fill the sums and, with `backward`, the gradients."""
        for tile in self.pairs.tiles():
            gradient = self._visit(tile, self.pairs.scores(tile))
            if backward:
                self.by_bias += gradient.sum()
                self.pairs.add(tile, gradient)

    def _visit(self, tile: Tile, scores: Tensor) -> Tensor:
        """Add a tile to the sums and return sigmoid minus answer."""
        own, at = tile.diagonal(scores), None if self.repeats is None else self.repeats.within(tile)
        again = scores.new_zeros(0) if at is None else scores[at]
        self.own += own.sum()
        self.again += again.sum()
        logits = scores.add_(self.bias)
        self.loss -= (self.high - self.low) * own.sum()
        if self.low:
            self.loss -= self.low * logits.sum()
        self._rank(tile, logits, own, at, again)
        if at is not None and self.masked:
            logits[at] = -torch.inf  # no loss, no gradient
            if self.low:
                self.loss += self.low * (again + self.bias).sum()
        elif at is not None:
            self.loss -= (self.high - self.low) * (again + self.bias).sum()
        gradient = self._softplus(logits)
        if self.low:
            gradient.sub_(self.low)
        tile.diagonal(gradient).sub_(self.high - self.low)
        if at is not None:
            gradient[at] = 0 if self.masked else gradient[at] - (self.high - self.low)
        return gradient

    def _rank(self, tile: Tile, logits: Tensor, own: Tensor, at: tuple[Tensor, Tensor] | None, again: Tensor) -> None:
        """Keep each row's highest right and highest wrong logit; `own` is a view of `logits`."""
        values = own.clone()
        best = self.best[:, tile.rows]
        inside = slice(tile.own.start - tile.row, tile.own.stop - tile.row)
        best[0, inside] = torch.maximum(best[0, inside], values)
        own.fill_(-torch.inf)
        if at is not None:
            logits[at] = -torch.inf
            if not self.masked:
                best[0].scatter_reduce_(0, at[0], again + self.bias, "amax")
        torch.maximum(best[1], logits.amax(dim=1), out=best[1])
        own.copy_(values)
        if at is not None:
            logits[at] = again + self.bias

    def _softplus(self, logits: Tensor) -> Tensor:
        """Add the sum of log(1 + exp(logits)) to the loss and return its derivative, in the same memory."""
        if not self.is_bounded:
            self.loss += F.softplus(logits).sum()
            return logits.sigmoid_()
        odds = logits.exp_()
        self.loss += torch.log1p(odds).sum()
        return odds.div_(odds + 1)
