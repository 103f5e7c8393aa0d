"""A small task in float64, in which a rounding does not hide a mistake, and batches for it."""

import torch
from torch import Tensor

from contrastive.config import load
from contrastive.models.build import build
from contrastive.train.task import ContrastiveTask
from tests import toys


class Doubled(ContrastiveTask):
    """A task whose pixels are float64 where its weights are."""

    def augmented(self, batch: dict[str, Tensor]) -> Tensor:
        return super().augmented(batch).to(self.model.logit_scale.dtype)


def doubled(*overrides: str) -> Doubled:
    """Return a task in training mode. No parameter is zero: at zero a gradient may hide."""
    config = load([], [*toys.TINY_MODEL, *overrides])
    torch.manual_seed(0)
    built = build(config.model)
    task = Doubled(built.model, built.preprocess, config).double()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return task.train()


def batch(count: int, size: int = toys.SIZE) -> dict[str, Tensor]:
    """Return what the loader gives for `count` samples with images of `size`."""
    generator, numbers = torch.Generator().manual_seed(1), torch.arange(count)
    return {
        "image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        "text": torch.randint(1, 400, (count, 12), generator=generator),
        **dict.fromkeys(("caption_id", "image_id", "index", "seed"), numbers),
    }
