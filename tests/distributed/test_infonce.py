"""InfoNCE and its gradients on real processes equal those of one process with the whole batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive import distributed
from contrastive.losses.infonce import InfoNCE
from tests import toys

BATCH = 8


class Towers(nn.Module):
    def __init__(self, positives: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.ones(1) * 2.5)
        self.loss = InfoNCE(positives)

    def forward(self, image: Tensor, text: Tensor, ids: Tensor) -> dict[str, Tensor]:
        image, text = (nn.functional.normalize(x, dim=-1) for x in (self.image(image), self.text(text)))
        features = {"image_features": image, "text_features": text, "logit_scale": self.logit_scale}
        return self.loss(features, {"caption_id": ids})


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([0, 1, 2, 0, 3, 1, 0, 4])  # captions repeat across the ranks
    return torch.randn(BATCH, 6, generator=generator), torch.randn(BATCH, 5, generator=generator), ids


def train_alone(positives: str) -> tuple[float, float, dict[str, Tensor]]:
    towers = Towers(positives)
    terms = towers(*batch())
    terms["loss"].backward()
    return terms["loss"].item(), terms["accuracy"].item(), {n: p.grad.clone() for n, p in towers.named_parameters()}


def train_shared(positives: str) -> dict[str, object]:
    towers = DistributedDataParallel(Towers(positives))
    share = BATCH // distributed.world_size()
    rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    terms = towers(*(x[rows] for x in batch()))
    terms["loss"].backward()
    means = distributed.mean_over_ranks(torch.stack([terms["loss"], terms["accuracy"]])).tolist()
    gradients = {name: p.grad.tolist() for name, p in towers.module.named_parameters()}
    return {"world_size": distributed.world_size(), "means": means, "gradients": gradients}


@pytest.mark.parametrize("positives", ["pair", "caption"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_loss_and_every_gradient_equal_the_whole_batch_in_one_process(world_size: int, positives: str):
    loss, accuracy, gradients = train_alone(positives)
    for answer in toys.on_ranks(train_shared, world_size, positives):
        assert answer["world_size"] == world_size
        assert answer["means"] == pytest.approx([loss, accuracy], rel=1e-6)
        for name, gradient in gradients.items():
            found = torch.tensor(answer["gradients"][name])
            assert (found - gradient).norm() / gradient.norm() <= 1e-6, name
