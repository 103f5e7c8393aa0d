import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.settings import MAX_LOGIT_SCALE
from contrastive.train.caching import StepPlan
from contrastive.train.optim import optimizer
from contrastive.train.step import Step, clamp_logit_scale
from tests.train.toys import batch, doubled

PLAIN = StepPlan(2, 2, 2)


class Model(nn.Module):
    """Two towers of one weight each, and a temperature."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor([scale]))
        self.image, self.text = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))

    def towers(self) -> dict[str, list[nn.Parameter]]:
        return {"image": [self.image], "text": [self.text]}

    def logit_parameters(self) -> dict[str, nn.Parameter]:
        return {"logit_scale": self.logit_scale}


class Task(nn.Module):
    """A loss whose gradient is the batch."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.model = Model(scale)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weight = torch.cat([self.model.image, self.model.text])
        loss = (weight * batch["x"]).sum() + 0 * self.model.logit_scale.sum()
        return {"loss": loss, "extra": loss.detach()}


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(("clip", "share"), [(None, 1.0), (2.5, 0.5), (100.0, 1.0)])
def test_a_step_clips_to_the_norm_and_clears_gradients_whether_or_not_it_is_read(
    clip: float | None, share: float, is_read: bool
):
    task = Task(1.0)
    step = Step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=1.0), PLAIN, clip)
    terms = step({"x": torch.tensor([3.0, 4.0])}, is_read=is_read)
    assert terms["loss"].item() == pytest.approx(25.0)
    assert task.model.image.item() == pytest.approx(3 - 3 * share, abs=1e-5)
    assert task.model.text.item() == pytest.approx(4 - 4 * share, abs=1e-5)
    assert all(p.grad is None for p in task.parameters())
    assert not any(value.requires_grad for value in terms.values())


def test_a_step_that_is_read_tells_norms_before_clipping_and_the_temperature_after_it():
    task = Task(1.0)
    step = Step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=1.0), PLAIN, 1.0)
    read = step({"x": torch.tensor([3.0, 4.0])}, is_read=True)
    assert read["grad_norm"].item() == pytest.approx(5.0)
    assert (read["grad_norm/image"].item(), read["grad_norm/text"].item()) == pytest.approx((3.0, 4.0))
    assert read["logit_scale"].item() == pytest.approx(torch.tensor(1.0).exp().item())
    assert set(step({"x": torch.ones(2)}, is_read=False)) == {"loss", "extra", "grad_norm"}


def test_a_frozen_tower_has_a_gradient_of_norm_zero():
    task = Task(1.0)
    task.model.text.requires_grad_(False)
    step = Step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=1.0), PLAIN, 1.0)
    assert step({"x": torch.ones(2)}, is_read=True)["grad_norm/text"].item() == 0


@pytest.mark.parametrize(("scale", "expected"), [(-1.0, 0.0), (2.0, 2.0), (9.0, MAX_LOGIT_SCALE)])
def test_the_temperature_is_kept_in_its_range_after_the_step(scale: float, expected: float):
    task = Task(scale)
    Step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=0.1), PLAIN, 1.0)(
        {"x": torch.ones(2)}, is_read=False
    )
    assert task.model.logit_scale.item() == pytest.approx(expected)
    clamp_logit_scale(task.model.logit_scale)
    assert task.model.logit_scale.item() == pytest.approx(expected)


def test_a_drift_is_refused_with_its_tower():
    step = Step(Accelerator(cpu=True), Task(1.0), torch.optim.SGD(Task(1.0).parameters(), lr=0.1), PLAIN, None)
    step.require_exact({"replay_drift/image": 0.0, "loss": 3.0})
    with pytest.raises(RunError, match=r"the text tower gives other features .* \(difference up to 0\.5\)"):
        step.require_exact({"replay_drift/image": 0.0, "replay_drift/text": 0.5})


def test_the_drift_is_told_once_and_measured_anew():
    task, whole = doubled(), batch(6)
    sgd = torch.optim.SGD(task.parameters(), lr=0.1)
    step = Step(Accelerator(cpu=True), task, sgd, StepPlan(6, 2, 3), None)
    assert not any(name.startswith("replay_drift/") for name in step(whole, is_read=False))
    read = step(whole, is_read=True)
    assert (read["replay_drift/image"].item(), read["replay_drift/text"].item()) == (0, 0)
    assert step.cached.drift == {}


@pytest.mark.slow
def test_a_batch_of_4096_in_micro_batches_of_64_gives_the_weights_of_the_plain_step():
    start, whole, weights = doubled(), batch(4096), []
    for plan in (StepPlan(4096, 4096, 4096), StepPlan(4096, 64, 64)):
        task = copy.deepcopy(start)
        adamw = optimizer(task, load([], ["optim.learning_rate=0.001"]).optim)
        step = Step(Accelerator(cpu=True), task, adamw, plan, clip=0.5)
        for _ in range(3):
            step(whole, is_read=False)
        weights.append(dict(task.named_parameters()))
    plain, cached = weights
    assert max((plain[name] - value).norm() / value.norm() for name, value in start.named_parameters()) > 1e-3
    for name, value in plain.items():
        assert (cached[name] - value).norm() <= 1e-6 * value.norm(), name
