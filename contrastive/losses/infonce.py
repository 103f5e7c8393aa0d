"""Symmetric InfoNCE (Radford et al. 2021, section 2.3, figure 3; van den Oord et al. 2018), exact at any batch size."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from contrastive.losses.gradients import figures, is_asked, not_a_number, with_gradients
from contrastive.losses.repeats import Duplicates, Ids, gather_repeats, names_of, needs
from contrastive.losses.softmax import HIGHEST, Sums, SymmetricSoftmax, Targets, solve
from contrastive.losses.tiles import Pairs


class InfoNCE(nn.Module):
    """Cross-entropy of each image over all texts of the global batch and of each text over all images, halved.

    `duplicates` says what other samples with the same `duplicates_by` are (`caption`, `image`, `label`, or several,
    one of which has to agree): with `positives`, further right answers in equal shares (Khosla et al. 2020,
    arXiv:2004.11362, equation 2); with `masked`, nothing; with `negatives`, wrong answers, as in CLIP.

    `label_smoothing` in [0, 1) spreads that share of the target over all answers (Szegedy et al. 2016, section 7).
    `hard_negatives` b >= 0 weighs the negative j of sample i in its denominator by exp(b * score_ij), scaled to a mean
    of one over its negatives (Robinson et al. 2021, arXiv:2010.04592, section 3; Radenovic et al. 2023,
    arXiv:2301.02280, section 4.3); the gradient is that of the value, through the weights.

    Time is 8 b B E operations (6 while b x B scores are few), memory one tile and the gradients of the features, for b
    samples of this rank and B of all. Texts are gathered, their gradients summed and scattered; nothing runs inside
    the backward pass. Ranks may bring different numbers of samples. `tile` is (rows, columns) of a tile.
    """

    splits_batch = True
    needs = staticmethod(needs)

    def __init__(
        self,
        duplicates: Duplicates = "positives",
        duplicates_by: Ids | list[Ids] = "caption",
        label_smoothing: float = 0.0,
        hard_negatives: float = 0.0,
        tile: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: {label_smoothing} must be at least 0 and less than 1")
        if not 0 <= hard_negatives <= 3:
            raise ValueError(f"hard_negatives: {hard_negatives} must be at least 0 and at most 3")
        self.duplicates, self.duplicates_by = duplicates, names_of(duplicates, duplicates_by)
        self.label_smoothing, self.hard_negatives, self.tile = label_smoothing, hard_negatives, tile

    def forward(self, features: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, and what the mean over ranks makes a figure of the global batch.

        `accuracy`: the share of images that score a right text higher than every wrong one; `positive_similarity` and
        `negative_similarity`: mean cosines; `duplicates`: the share of samples that others repeat, where ids are read.

        Raises:
            RunError: features are far from unit length. With any that are not finite `loss` is NaN, and alone.
        """
        image, text, log_scale = features["image_features"], features["text_features"], features["logit_scale"]
        bias = features.get("logit_bias")
        inputs = [image, text, log_scale, bias]
        asked = [is_asked(x) for x in inputs]
        with torch.no_grad():
            pairs = Pairs(image, text, log_scale, self.tile)
            repeats = gather_repeats(batch, self.duplicates_by, pairs.counts)
            targets = Targets(repeats, self.duplicates == "masked", self.label_smoothing, self.hard_negatives)
            shift = max(0.0, float(pairs.scale) - HIGHEST / (1 + self.hard_negatives))
            softmax = SymmetricSoftmax(pairs, targets, shift)
            found, is_number = solve(softmax, keep=any(asked))
            if is_number:
                terms = _terms(softmax, found)
        if not is_number:
            return {"loss": not_a_number(features, inputs)}
        if not any(asked):
            return terms
        with torch.no_grad():
            pairs.want(image=asked[0] or not asked[1], text=asked[1])
            softmax.gradients(found)
            # A softmax does not see a bias: its gradient is zero, and present, for DDP waits for one.
            gradients = [*pairs.gradients(), None if bias is None else torch.zeros_like(bias)]
        return {**terms, "loss": with_gradients(terms["loss"], inputs, gradients)}


def _terms(softmax: SymmetricSoftmax, found: Sums) -> dict[str, Tensor]:
    """Return the loss and the figures of this rank, such that their mean over ranks is that of all samples."""
    pairs, own = softmax.pairs, softmax.own
    totals = torch.cat([softmax.totals(found.row, own), softmax.totals(found.column, slice(None))[own]])
    loss = totals.double().log().sum() + 2 * softmax.shift * len(pairs.image) - found.target
    right = found.best[0] > found.best[1]
    terms = figures(pairs, softmax.targets.repeats, found.own, found.repeats, right)
    return {"loss": (pairs.share * loss).to(pairs.dtype), **terms}
