"""Symmetric InfoNCE (Radford et al. 2021, section 2.3, figure 3; van den Oord et al. 2018)."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive import distributed


class InfoNCE(nn.Module):
    """Cross-entropy of each image over all texts of the global batch and of each text over all images, halved.

    `positives`: with `pair` an image's own text is its only right answer; with `caption` every equal caption in the
    batch is one, in equal shares (Khosla et al. 2020, arXiv:2004.11362, the form with the sum outside the logarithm),
    so that captions that repeat are not pushed away from their own images.

    Each rank scores its own rows against everybody's columns, so time and memory for logits are b x B a rank, and the
    gradient after the usual mean over ranks is that of one process with the whole batch. Logits and softmax are
    float32 whatever the precision of the features.
    """

    def __init__(self, positives: Literal["pair", "caption"] = "pair") -> None:
        super().__init__()
        self.positives = positives

    def forward(self, features: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, and `accuracy`: the share of this rank's images whose best-scoring text is right.

        With `positives: caption`, `duplicates` is the share of this rank's captions that the global batch repeats.
        """
        image, text = features["image_features"], features["text_features"]
        with torch.autocast(image.device.type, enabled=False):
            image, text = image.float(), text.float()  # [b, E]
            scale = features["logit_scale"].float().exp()
            to_text = scale * image @ distributed.all_gather_with_gradient(text).T  # [b, B]
            to_image = scale * text @ distributed.all_gather_with_gradient(image).T  # [b, B]
            if self.positives == "pair":
                own = torch.arange(len(image), device=image.device) + distributed.rank() * len(image)
                loss = (F.cross_entropy(to_text, own) + F.cross_entropy(to_image, own)) / 2
                right = to_text.detach().argmax(dim=1) == own
                return {"loss": loss, "accuracy": right.float().mean()}
            equal = _equal_captions(batch["caption_id"])  # [b, B]
            target = equal / equal.sum(dim=1, keepdim=True)
            loss = (F.cross_entropy(to_text, target) + F.cross_entropy(to_image, target)) / 2
            right = equal.gather(1, to_text.detach().argmax(dim=1, keepdim=True))
            duplicates = (equal.sum(dim=1) > 1).float().mean()
        return {"loss": loss, "accuracy": right.mean(), "duplicates": duplicates}


def _equal_captions(caption_id: Tensor) -> Tensor:
    """Return 1.0 where a caption of this rank equals one of the global batch, float32 [b, B]."""
    return (caption_id[:, None] == distributed.all_gather(caption_id)[None, :]).float()
