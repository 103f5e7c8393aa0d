import time
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.train.loop import Pace, total_steps, train
from contrastive.train.optim import learning_rate


class Task(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.logit_scale = nn.Parameter(torch.tensor([1.0]))
        self.weight, self.factor = nn.Parameter(torch.ones(1)), factor

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight + self.model.logit_scale * 0) * batch["x"] * self.factor).sum()}


class Records:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def record(self, kind: str, step: int, values: dict, prefix: str = "") -> None:
        self.rows.append({"kind": kind, "step": step, **values})


def run(task: nn.Module, *overrides: str) -> tuple[list[dict], list[int], list[int]]:
    config = load([], ["data.global_batch_size=10", "train.total_samples=95", "tracking.log_every_steps=1", *overrides])
    records, saved, evaluated = Records(), [], []

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield {"x": torch.ones(2)}

    def evaluate(step: int) -> None:
        evaluated.append(step)
        task.eval()

    train(
        config,
        Accelerator(cpu=True),
        task,
        torch.optim.SGD(task.parameters(), lr=9.0),
        batches(),
        samples=40,
        tracker=records,
        save=saved.append,
        evaluate=evaluate,
    )
    return records.rows, saved, evaluated


def test_the_rate_of_every_step_is_the_function_of_samples_seen():
    rows, _, _ = run(Task(), "optim.warmup_samples=30")
    config = load([], ["optim.warmup_samples=30"]).optim
    assert [row["learning_rate"] for row in rows] == [learning_rate(config, step * 10, 95) for step in range(10)]
    assert [row["samples_seen"] for row in rows] == [10 * step for step in range(1, 11)]
    assert rows[7]["epoch"] == 2.0


def test_the_end_is_always_saved_and_evaluated_and_training_mode_comes_back():
    task = Task()
    _, saved, evaluated = run(task, "train.save_every_steps=4", "eval.every_steps=3")
    assert (saved, evaluated) == ([4, 8, 10], [3, 6, 9, 10])
    assert task.training


def test_a_loss_that_is_not_finite_stops_with_what_to_do():
    with pytest.raises(RunError, match=r"step 1: the loss is inf; lower optim\.learning_rate"):
        run(Task(float("inf")))


def test_the_last_step_is_whole():
    assert total_steps(load([], ["train.total_samples=95", "data.global_batch_size=10"])) == 10
    assert total_steps(load([], ["train.total_samples=90", "data.global_batch_size=10"])) == 9


def test_a_pause_is_off_the_clock():
    pace = Pace(world_batch=8)
    pace.steps, pace.waited = 2, 0.0
    pace.pause(lambda: time.sleep(0.3))
    assert pace.figures()["step_seconds"] < 0.1
