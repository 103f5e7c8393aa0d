"""Every loss and all its gradients on real processes equal those of one process with the whole batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive import distributed
from contrastive.errors import ConfigError
from contrastive.losses.distillation import Distillation
from contrastive.losses.infonce import InfoNCE
from contrastive.losses.sigmoid import Sigmoid
from tests import toys

BATCH = 23
LOSSES = {
    "infonce": lambda: InfoNCE(duplicates="negatives", tile=(3, 4)),
    "positives": lambda: InfoNCE(duplicates_by=["caption", "image"], tile=(3, 4)),
    "everything": lambda: InfoNCE("masked", label_smoothing=0.1, hard_negatives=0.4, tile=(3, 4)),
    "distillation": lambda: Distillation(4, 3, logits=1.0, features=0.5, tile=(3, 4)),
    "sigmoid": lambda: Sigmoid(duplicates="negatives", tile=(3, 4)),
    "sigmoid positives": lambda: Sigmoid(label_smoothing=0.1, tile=(3, 4)),
}
SHARES = {1: [23], 2: [8, 15], 4: [6, 1, 9, 7]}  # of a batch of 23 that does not divide
EVEN = {2: [12, 12], 4: [6, 6, 6, 6]}


class Towers(nn.Module):
    def __init__(self, loss: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.ones(1) * 2.5), nn.Parameter(-torch.ones(1))
        self.loss = LOSSES[loss]()

    def forward(self, image: Tensor, text: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, text = (nn.functional.normalize(x, dim=-1) for x in (self.image(image), self.text(text)))
        scalars = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        teacher = {f"teacher_{name}_features": batch[f"teacher_{name}"] for name in ("image", "text")}
        teacher["teacher_logit_scale"] = torch.ones(1) * 3
        return self.loss({"image_features": image, "text_features": text, **scalars, **teacher}, batch)


def batch(size: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(size, 6, generator=generator), torch.randn(size, 5, generator=generator)
    ids = {f"{name}_id": torch.randint(0, 15, (size,), generator=generator) for name in ("caption", "image")}
    for name in ("image", "text"):
        ids[f"teacher_{name}"] = nn.functional.normalize(torch.randn(size, 3, generator=generator), dim=-1)
    return image, text, ids


def rows_of(shares: list[int]) -> slice:
    start = sum(shares[: distributed.rank()])
    return slice(start, start + shares[distributed.rank()])


def train_alone(loss: str, size: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    towers = Towers(loss)
    terms = towers(*batch(size))
    terms["loss"].backward()
    return {n: v.item() for n, v in terms.items()}, {n: p.grad.clone() for n, p in towers.named_parameters()}


def train_shared(shares: list[int]) -> dict[str, dict[str, object]]:
    answers = {}
    for loss in LOSSES:
        towers = DistributedDataParallel(Towers(loss))
        rows = rows_of(shares)
        image, text, ids = batch(sum(shares))
        terms = towers(image[rows], text[rows], {name: value[rows] for name, value in ids.items()})
        terms["loss"].backward()
        means = {name: distributed.mean_over_ranks(value).item() for name, value in sorted(terms.items())}
        answers[loss] = {"means": means, "gradients": {n: p.grad.tolist() for n, p in towers.module.named_parameters()}}
    return answers


@pytest.mark.parametrize("shares", [SHARES[1], SHARES[2], SHARES[4], EVEN[2], EVEN[4], [0, 24]], ids=str)
def test_loss_figures_and_every_gradient_equal_the_whole_batch_in_one_process(shares: list[int]):
    answers = toys.on_ranks(train_shared, len(shares), shares)
    for loss in LOSSES:
        terms, gradients = train_alone(loss, sum(shares))
        for answer in (each[loss] for each in answers):
            assert answer["means"] == pytest.approx(terms, rel=1e-6, abs=1e-7), loss
            for name, gradient in gradients.items():
                found = torch.tensor(answer["gradients"][name])
                assert (found - gradient).norm() <= 1e-6 * gradient.norm().clamp(min=1e-9), (loss, name)


def train_sharded(shares: list[int]) -> dict[str, dict[str, list[float]]]:
    from torch.distributed.fsdp import fully_shard

    answers = {}
    for loss in LOSSES:
        towers = Towers(loss)
        for part in (towers.image, towers.text, towers):
            fully_shard(part)
        rows = rows_of(shares)
        image, text, ids = batch(sum(shares))
        towers(image[rows], text[rows], {name: value[rows] for name, value in ids.items()})["loss"].backward()
        answers[loss] = {n: p.grad.full_tensor().tolist() for n, p in towers.named_parameters()}
    return answers


def test_under_fsdp_too():
    answers = toys.on_ranks(train_sharded, 2, SHARES[2])
    for loss in LOSSES:
        _, gradients = train_alone(loss, BATCH)
        for answer in (each[loss] for each in answers):
            for name, gradient in gradients.items():
                found = torch.tensor(answer[name])
                assert (found - gradient).norm() <= 1e-6 * gradient.norm().clamp(min=1e-9), (loss, name)


def feed_nan(kind: str) -> tuple[bool, bool]:
    towers = Towers(kind)
    image, text, ids = batch(4)
    if distributed.rank() == 1:
        image[2] = torch.nan
    loss = towers(image, text, ids)["loss"]
    loss.backward()
    return bool(loss.isnan()), bool(towers.text.weight.grad.isnan().any())


def test_nan_on_one_rank_is_a_loss_of_nan_and_hangs_none():
    assert toys.on_ranks(feed_nan, 2, "infonce") == [(True, True)] * 2
    # Of a sigmoid each rank has the pairs of its own images; the gradients of texts are summed over ranks.
    assert toys.on_ranks(feed_nan, 2, "sigmoid") == [(False, True), (True, True)]


def forget_ids() -> str:
    image, text, values = batch(4)
    with pytest.raises(ConfigError) as caught:
        Towers("positives")(image, text, {name: value for name, value in values.items() if "_id" not in name})
    return str(caught.value)


def test_missing_ids_are_refused_on_all_ranks():
    assert len(set(toys.on_ranks(forget_ids, 2))) == 1
