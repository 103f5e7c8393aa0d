from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.train.guard import Guard
from contrastive.train.loop import Hooks, Span, Training, due, span
from contrastive.train.optim import learning_rate


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor([1.0]))
        self.image, self.text = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def towers(self) -> dict[str, list[nn.Parameter]]:
        return {"image": [self.image], "text": [self.text]}

    def logit_parameters(self) -> dict[str, nn.Parameter]:
        return {"logit_scale": self.logit_scale, "logit_bias": torch.tensor([-3.0])}


class Task(nn.Module):
    """A loss that is linear in the weights; `factor` is multiplied in by the step given, counted from 1."""

    def __init__(self, factor: float = 1.0, from_step: int = 1, gradient: float = 1.0) -> None:
        super().__init__()
        self.model, self.factor, self.from_step, self.gradient, self.steps = Model(), factor, from_step, gradient, 0

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.steps += 1
        factor = self.factor if self.steps >= self.from_step else 1.0
        weight = self.model.image + self.model.text + self.model.logit_scale * 0
        if self.gradient != 1:
            weight.register_hook(lambda gradient: gradient * (self.gradient if self.steps >= self.from_step else 1))
        return {"loss": (weight * batch["x"] * factor).sum(), "x": batch["x"].mean()}


class Stream:
    """Batches without end, of an epoch of 40 samples, of which every step replaces one."""

    epoch_samples = 40

    def __init__(self) -> None:
        self.steps = 0

    def batches(self, first_step: int, last_step: int) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(first_step, last_step):
            self.steps += 1
            yield {"x": torch.ones(2)}

    def counts(self) -> dict[str, int]:
        return {"replaced": self.steps}


class Recorded(Hooks):
    """Hooks that keep what they are told."""

    def __init__(self, task: nn.Module, done: list[int] | None) -> None:
        self.task, self.rows = task, []
        self.saved, self.evaluated = [] if done is None else done, [] if done is None else done

    def record(self, step: int, values: dict) -> None:
        self.rows.append({"step": step, **values})

    def save(self, step: int, *, wait: bool = False) -> None:
        self.saved.append(step)

    def evaluate(self, step: int) -> None:
        self.evaluated.append(step)
        self.task.eval()


def run(
    task: nn.Module,
    *overrides: str,
    done: list[int] | None = None,
    hooks: Recorded | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[list[dict], list[int], list[int]]:
    config = load([], ["data.global_batch_size=10", "train.total_samples=95", "tracking.log_every_steps=1", *overrides])
    hooks = Recorded(task, done) if hooks is None else hooks
    optimizer = torch.optim.SGD(task.parameters(), lr=9.0) if optimizer is None else optimizer
    accelerator = Accelerator(cpu=True)
    Training(
        config, accelerator, task, optimizer, Stream(), hooks=hooks, steps=span(config), guard=Guard(config.train)
    ).run()
    return hooks.rows, hooks.saved, hooks.evaluated


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


@pytest.mark.parametrize("interval", ["train.save_every_steps=4", "eval.every_steps=4"])
def test_what_is_not_finite_is_neither_saved_nor_evaluated(interval: str):
    done: list[int] = []
    with pytest.raises(RunError, match="step 4: the loss is nan"):
        run(Task(float("nan"), from_step=4), interval, "tracking.log_every_steps=100", done=done)
    assert not done


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved():
    done: list[int] = []
    settings = ["train.save_every_steps=4", "tracking.log_every_steps=100"]
    with pytest.raises(RunError, match=r"step 4: the norm of the gradients is nan; lower optim\.learning_rate"):
        run(Task(gradient=float("nan"), from_step=4), *settings, done=done)
    assert not done


def test_an_error_of_a_step_says_which():
    def refuse(batch: dict[str, torch.Tensor]) -> None:
        if task.steps == 2:
            raise RunError("image_features are not finite")
        return original(batch)

    task = Task()
    original, task.forward = task.forward, refuse
    with pytest.raises(RunError, match=r"^step 3: image_features are not finite$"):
        run(task)


def test_the_health_of_gradients_and_logits_is_recorded():
    (first, *_), _, _ = run(Task(), "optim.learning_rate=0")
    # The gradient of both weights is the sum of x, 2.
    assert (first["grad_norm/image"], first["grad_norm/text"]) == (2.0, 2.0)
    assert first["grad_norm"] == pytest.approx(8**0.5)
    assert first["logit_scale"] == pytest.approx(2.718282)
    assert (first["logit_bias"], first["x"]) == (-3.0, 1.0)


def test_all_figures_of_a_step_travel_in_one_tensor(monkeypatch: pytest.MonkeyPatch):
    exchanged: list[int] = []

    def mean(values: torch.Tensor) -> torch.Tensor:
        exchanged.append(len(values))
        return values

    monkeypatch.setattr("contrastive.train.loop.distributed.mean_over_ranks", mean)
    rows, _, _ = run(Task(), "tracking.log_every_steps=5", "train.save_every_steps=5", "eval.every_steps=5")
    assert len(rows) == 2
    assert exchanged == [7, 7]  # loss, x, three norms, scale and bias


def test_a_step_is_due_at_its_intervals_and_at_the_end():
    config = load([], ["tracking.log_every_steps=2", "eval.every_steps=3"])
    assert [due(config, step, last=7) for step in (1, 2, 3, 6, 7)] == [
        (False, False, False),
        (True, False, False),
        (False, False, True),
        (True, False, True),
        (True, True, True),
    ]


def test_the_last_step_is_whole_and_a_run_that_goes_on_counts_its_samples():
    config = load([], ["train.total_samples=95", "data.global_batch_size=10"])
    assert span(config).last == 10
    assert span(load([], ["train.total_samples=90", "data.global_batch_size=10"])).last == 9
    on = span(config, first=4, seen=32)  # earlier launches had batches of 8
    assert (on.last, on.samples_seen(4), on.samples_seen(on.last)) == (11, 32, 102)
    assert span(config, first=4, seen=200) == Span(10, 4, 4, 200)


def test_what_the_stream_counts_is_logged():
    rows, _, _ = run(Task(), "tracking.log_every_steps=4")
    assert [row["data/replaced"] for row in rows] == [4, 8, 10]
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 2.5]
