import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastive.config import MAX_LOGIT_SCALE
from contrastive.train.step import clamp_logit_scale, train_step


class Task(nn.Module):
    """A quadratic in one weight, with a model that has a temperature."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.logit_scale = nn.Parameter(torch.tensor([scale]))
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        loss = (self.weight * batch["x"]).sum() + 0 * self.model.logit_scale.sum()
        return {"loss": loss, "extra": loss.detach()}


@pytest.mark.parametrize(("clip", "share"), [(None, 1.0), (2.5, 0.5), (100.0, 1.0)])
def test_a_step_clips_to_the_norm_reports_it_and_clears_gradients(clip: float | None, share: float):
    task = Task(1.0)
    sgd = torch.optim.SGD(task.parameters(), lr=1.0)
    terms = train_step(Accelerator(cpu=True), task, sgd, {"x": torch.tensor([3.0, 4.0])}, clip)
    assert terms["grad_norm"].item() == pytest.approx(5.0)
    assert terms["loss"].item() == pytest.approx(25.0)
    torch.testing.assert_close(task.weight.detach(), torch.tensor([3.0, 4.0]) * (1 - share), atol=1e-5, rtol=0)
    assert all(p.grad is None for p in task.parameters())
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize(("scale", "expected"), [(-1.0, 0.0), (2.0, 2.0), (9.0, MAX_LOGIT_SCALE)])
def test_the_temperature_is_kept_in_its_range_after_the_step(scale: float, expected: float):
    task = Task(scale)
    train_step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=0.1), {"x": torch.ones(2)}, 1.0)
    assert task.model.logit_scale.item() == pytest.approx(expected)
    clamp_logit_scale(task.model.logit_scale)
    assert task.model.logit_scale.item() == pytest.approx(expected)
