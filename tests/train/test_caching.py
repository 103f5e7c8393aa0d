"""How steps are planned, and what a cached backward does besides the gradients that tests/distributed compares."""

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive.config import load
from contrastive.errors import ConfigError, RunError
from contrastive.runs import machine
from contrastive.train.caching import CachedBackward, StepPlan, plan_step, require_replayed
from contrastive.train.task import ContrastiveTask
from tests.train.toys import batch, doubled

BATCH = batch(7)


def planned(world_size: int, *overrides: str) -> StepPlan:
    return plan_step(load([], ["data.global_batch_size=512", *overrides]), world_size)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ([], "plain, 256 samples per process at once"),
        (["train.micro_batch_size=256"], "plain, 256 samples per process at once"),
        (
            ["train.micro_batch_size=64"],
            "cached, 4 image micro-batches of 64 and 4 text micro-batches of 64 per process",
        ),
        (
            ["train.micro_batch_size=100", "train.text_micro_batch_size=256"],
            "cached, 3 image micro-batches of 100 (the last of 56) and 1 text micro-batch of 256 per process",
        ),
        (
            ["train.text_micro_batch_size=128"],
            "cached, 1 image micro-batch of 256 and 2 text micro-batches of 128 per process",
        ),
    ],
)
def test_a_step_plans_itself_and_says_so(overrides: list[str], text: str):
    assert str(planned(2, *overrides)) == text


@pytest.mark.parametrize(
    ("world_size", "override", "message"),
    [
        (
            2,
            "train.micro_batch_size=512",
            "train.micro_batch_size: 512 is more than the 256 samples of a process "
            "(data.global_batch_size 512 over 2 processes); take at most 256",
        ),
        (
            1,
            "train.text_micro_batch_size=1000",
            "train.text_micro_batch_size: 1000 is more than the 512 samples of a process "
            "(data.global_batch_size 512 over 1 process); take at most 512",
        ),
    ],
)
def test_a_micro_batch_larger_than_the_share_is_refused(world_size: int, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        planned(world_size, override)
    assert str(caught.value) == message


def gradients(task: ContrastiveTask) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad(set_to_none=True)
    return found


def plain(task: ContrastiveTask) -> dict[str, Tensor]:
    task(BATCH)["loss"].backward()
    return gradients(task)


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-9 * gradient.norm() + 1e-12, name


OURS = ["model.model_cfg=null", "model.image={name: cnn}", "model.text={name: lstm, width: 16}", "model.image_size=16"]


@pytest.mark.parametrize("overrides", [[], [*OURS, "data.augment={name: scribble}", "model.embed_dim=16"]])
def test_without_dropout_a_cached_step_has_the_terms_and_gradients_of_the_plain_one(overrides: list[str]):
    task = doubled(*overrides)
    expected_terms, expected = task(BATCH), plain(task)
    terms = CachedBackward(Accelerator(cpu=True), task, StepPlan(7, 3, 2))(BATCH)
    assert set(terms) == set(expected_terms)
    for name, value in expected_terms.items():
        torch.testing.assert_close(terms[name], value, msg=name)
    assert_equal_gradients(gradients(task), expected)


def test_where_no_graph_is_kept_every_micro_batch_is_computed_again():
    task = doubled()
    expected = plain(task)
    backward = CachedBackward(Accelerator(cpu=True), task, StepPlan(7, 3, 7))
    backward.keeps_graph = False  # as on a sharded model
    backward(BATCH)
    assert_equal_gradients(gradients(task), expected)
    assert set(backward.drift) == {"image", "text"}


def forwards(task: ContrastiveTask, plan: StepPlan) -> dict[str, int]:
    """Count how many samples each tower computes in a cached backward."""
    counted = {"image": 0, "text": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        for tower, given in zip(counted, inputs, strict=True):
            counted[tower] += 0 if given is None else len(given)

    hook = task.model.register_forward_pre_hook(count)
    CachedBackward(Accelerator(cpu=True), task, plan)(BATCH)
    hook.remove()
    return counted


def test_of_each_tower_one_micro_batch_is_computed_only_once():
    assert forwards(doubled(), StepPlan(7, 3, 7)) == {"image": 7 + 6, "text": 7}  # the last of 3, 3 and 1 is kept


def test_a_frozen_tower_is_computed_once():
    task = doubled()
    task.model.inner.visual.requires_grad_(False)
    assert forwards(task, StepPlan(7, 2, 4)) == {"image": 7, "text": 7 + 4}
    assert task.model.inner.visual.conv1.weight.grad is None


class Watched(nn.Module):
    """A layer that notes how many graphs through it are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.alive += 1
            self.most = max(self.most, self.alive)
            x.register_hook(self._done)
        return x

    def _done(self, gradient: Tensor) -> None:
        self.alive -= 1


def test_no_tower_ever_holds_more_than_one_graph():
    task, image, text = doubled(), Watched(), Watched()
    inner = task.model.inner
    inner.visual.ln_post, inner.ln_final = (
        nn.Sequential(inner.visual.ln_post, image),
        nn.Sequential(inner.ln_final, text),
    )
    CachedBackward(Accelerator(cpu=True), task, StepPlan(7, 2, 2))(BATCH)
    assert (image.most, text.most, image.alive, text.alive) == (1, 1, 0, 0)


class Private(nn.Module):
    """Dropout from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=self.generator) > 0.1)


def test_a_tower_that_draws_from_a_generator_of_its_own_is_refused():
    task = doubled()
    task.model.inner.ln_final = nn.Sequential(task.model.inner.ln_final, Private())
    with pytest.raises(RunError) as caught:
        CachedBackward(Accelerator(cpu=True), task, StepPlan(7, 2, 2))(BATCH)
    message = str(caught.value)
    assert message.startswith("the text tower gives other features when a micro-batch is repeated (difference up to 0.")
    assert message.endswith("mend it, or unset train.micro_batch_size and train.text_micro_batch_size")


def test_rounding_is_no_drift_and_no_number_is_for_others_to_report():
    for precision, rounding in (("no", 1e-6), ("bf16", 2.0**-8)):
        require_replayed("image", rounding, precision)
    require_replayed("image", float("nan"), "no")
    with pytest.raises(RunError):
        require_replayed("image", 2.0**-8, "no")


def test_in_bf16_both_passes_round_alike():
    accelerator = machine.accelerator("bf16")
    task = doubled().float()
    backward = CachedBackward(accelerator, accelerator.prepare(task), StepPlan(7, 3, 2))
    backward(BATCH)
    assert {tower: drift.item() for tower, drift in backward.drift.items()} == {"image": 0, "text": 0}


def test_running_statistics_move_once_and_layers_are_left_as_they_were():
    task = doubled("model.model_cfg.vision_cfg={image_size: 32, layers: [1, 1, 1, 1], width: 8}")
    norm = task.model.inner.visual.bn1
    norm.momentum = 0.3
    CachedBackward(Accelerator(cpu=True), task, StepPlan(7, 4, 7))(batch(7, size=32))
    assert norm.num_batches_tracked == 2
    assert (norm.momentum, norm.track_running_stats) == (0.3, True)


def test_a_loss_scale_reaches_every_gradient():
    accelerator, task = Accelerator(cpu=True), doubled()
    expected = {name: gradient * 1024 for name, gradient in plain(task).items()}
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    CachedBackward(accelerator, task, StepPlan(7, 3, 2))(BATCH)
    assert_equal_gradients(gradients(task), expected)
