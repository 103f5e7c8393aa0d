"""The cached step on real processes has the gradient of one process that keeps every graph of the whole batch.

The reference makes the same random draws: each rank's state, micro-batch by micro-batch, images before texts. Towers
run in float64, so that a rounding does not hide a mistake.
"""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from contrastive import distributed
from contrastive.config import load
from contrastive.errors import RunError
from contrastive.runs import machine
from contrastive.train.caching import CachedBackward, StepPlan, plan_step
from contrastive.train.step import Step
from contrastive.train.task import ContrastiveTask
from tests import toys
from tests.train.toys import batch, doubled

BATCH = 24
EXACT = 1e-6
VIT = "model.model_cfg.vision_cfg={image_size: 16, patch_size: 4, width: 32, layers: 1, head_width: 16, %s}"
RESNET = ["model.model_cfg.vision_cfg={image_size: 32, layers: [1, 1, 1, 1], width: 8}"]
HEAD = f"losses={{contrastive: {{name: infonce}}, headed: {{name: '{__name__}:Headed', weight: 0.5}}}}"
SIGMOID = "losses={pairs: {name: sigmoid}}"


class Headed(nn.Module):
    """A loss with a head of its own, averaged over this rank's samples; reads no temperature."""

    splits_batch = True

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, features: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, text = (self.head(features[f"{tower}_features"]) for tower in ("image", "text"))
        return {"loss": (image - text).square().sum(dim=1).mean()}


@dataclass(frozen=True)
class Scenario:
    """A model, and into how many micro-batches a rank cuts its images and its texts."""

    images: int
    texts: int
    model: tuple[str, ...] = ()
    dropout: float = 0.0
    freezes_image: bool = False
    has_unread_weight: bool = False

    def plan(self, share: int) -> StepPlan:
        return StepPlan(share, -(-share // self.images), -(-share // self.texts))


DROPS = {"model": (VIT % "patch_dropout: 0.5",), "dropout": 0.3}
SCENARIOS = {
    "plain": Scenario(1, 1),
    "whole share, dropout": Scenario(1, 1, **DROPS),
    "sigmoid": Scenario(3, 2, (SIGMOID, "model.init_logit_bias=-3", *DROPS["model"]), 0.3),
    "one text micro-batch": Scenario(2, 1, **DROPS),
    "one image micro-batch": Scenario(1, 2, **DROPS),
    "2": Scenario(2, 2, **DROPS),
    "4": Scenario(4, 4, **DROPS),
    "5 and 3, uneven": Scenario(5, 3, **DROPS),
    "batch norm": Scenario(3, 2, tuple(RESNET)),
    "frozen image tower": Scenario(3, 2, dropout=0.3, freezes_image=True),
    "frozen image tower, text at once": Scenario(3, 1, freezes_image=True),
    "head": Scenario(3, 4, (HEAD, *DROPS["model"]), 0.3),
    "unread bias": Scenario(3, 2, ("model.init_logit_bias=-3",)),
    "unread weight": Scenario(3, 2, has_unread_weight=True),
    "only the other loss": Scenario(3, 2, (HEAD.replace("contrastive: {name: infonce}, ", ""),)),
}


def make(scenario: Scenario) -> ContrastiveTask:
    task = doubled(*scenario.model)
    inner = task.model.inner
    inner.token_embedding = nn.Embedding(400, 32).double()  # CLIP's vocabulary is most of the model
    if scenario.dropout:
        inner.ln_final = nn.Sequential(inner.ln_final, nn.Dropout(scenario.dropout))
    if scenario.freezes_image:
        inner.visual.requires_grad_(False)
    if scenario.has_unread_weight:
        inner.unread = nn.Linear(2, 3).double()
    return task


def whole_batch(task: ContrastiveTask) -> dict[str, Tensor]:
    return batch(BATCH, task.preprocess.size)


def share_of(whole: dict[str, Tensor], rank: int, world_size: int) -> dict[str, Tensor]:
    share = BATCH // world_size
    return {name: value[rank * share : (rank + 1) * share] for name, value in whole.items()}


def state_of(task: ContrastiveTask) -> tuple[dict[str, Any], dict[str, Any]]:
    gradients = {name: p.grad.numpy().copy() for name, p in task.named_parameters() if p.grad is not None}
    return gradients, {name: buffer.numpy().copy() for name, buffer in task.named_buffers()}


def cached(scenario: Scenario) -> dict[str, Any]:
    """Run one cached backward on this rank; return everything that the reference also knows."""
    accelerator = machine.accelerator("no")
    task = make(scenario)
    wrapped = accelerator.prepare(task)
    counted: list[int] = []
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(counted, count)
    mine = share_of(whole_batch(task), distributed.rank(), distributed.world_size())
    backward = CachedBackward(accelerator, wrapped, scenario.plan(len(mine["image"])))
    start = {name: value.clone() for name, value in task.state_dict().items()}
    for _ in range(2):  # twice, because DDP arranges its buckets anew after the first backward
        task.load_state_dict(start)
        task.zero_grad(set_to_none=True)
        counted.clear()
        torch.manual_seed(100 + distributed.rank())
        terms = backward(mine)
    gradients, buffers = state_of(task)
    return {
        "loss": distributed.mean_over_ranks(terms["loss"]).item(),
        "random": torch.get_rng_state().numpy(),
        "reductions": sorted(counted),
        "drift": {tower: value.item() for tower, value in backward.drift.items()},
        **{"gradients": gradients, "buffers": buffers},
    }


def count(counted: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    counted.append(bucket.index())
    return allreduce_hook(None, bucket)


def all_scenarios() -> dict[str, dict[str, Any]]:
    return {name: cached(scenario) for name, scenario in SCENARIOS.items()}


@functools.cache
def answers(world_size: int) -> list[dict[str, dict[str, Any]]]:
    """Each rank's answers to all scenarios, of one launch."""
    return [all_scenarios()] if world_size == 1 else toys.on_ranks(all_scenarios, world_size, timeout=240)


@functools.cache
def reference(name: str, world_size: int) -> dict[str, Any]:
    """The whole batch in this process, with the draws and running statistics of each rank."""
    scenario, task = SCENARIOS[name], make(SCENARIOS[name])
    whole = whole_batch(task)
    statistics = {key: value for key, value in task.named_buffers() if "running" in key or "num_batches" in key}
    start = {key: value.clone() for key, value in statistics.items()}
    plan = scenario.plan(BATCH // world_size)
    parts: dict[str, list[Tensor]] = {"image_features": [], "text_features": []}
    random, buffers = [], []
    for rank in range(world_size):
        for key, value in statistics.items():
            value.data.copy_(start[key])  # graphs of other ranks hold it
        torch.manual_seed(100 + rank)
        mine = share_of(whole, rank, world_size)
        for image in mine["image"].split(plan.image):
            parts["image_features"].append(
                task.model.encode_image(task.preprocess.normalise(task.augmented({"image": image})))
            )
        for text in mine["text"].split(plan.text):
            parts["text_features"].append(task.model.encode_text(text))
        random.append(torch.get_rng_state().numpy())
        buffers.append(state_of(task)[1])
    features = {key: torch.cat(values) for key, values in parts.items()}
    loss = task.score({**features, **task.model.logit_parameters()}, whole)["loss"]
    loss.backward()
    return {"loss": loss.item(), "random": random, "gradients": state_of(task)[0], "buffers": buffers}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_gradient_is_that_of_the_whole_batch_with_all_graphs_alive(world_size: int, name: str):
    expected = reference(name, world_size)
    for rank, found in enumerate(each[name] for each in answers(world_size)):
        assert found["loss"] == pytest.approx(expected["loss"], rel=EXACT)
        for key, gradient in expected["gradients"].items():
            difference = torch.from_numpy(found["gradients"][key] - gradient).norm()
            # A bias of attention's keys has no gradient but rounding.
            assert difference <= EXACT * torch.from_numpy(gradient).norm() + 1e-12, key
        unread = found["gradients"].keys() - expected["gradients"].keys()
        assert all(not found["gradients"][key].any() for key in unread)
        assert (found["random"] == expected["random"][rank]).all()
        for key, buffer in expected["buffers"][rank].items():
            torch.testing.assert_close(torch.from_numpy(found["buffers"][key]), torch.from_numpy(buffer))


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_bucket_of_gradients_is_reduced_once_a_step(world_size: int):
    for each in answers(world_size):
        for found in each.values():
            assert found["reductions"] == list(range(len(found["reductions"])))  # bucket by bucket
            assert found["reductions"]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_replays_repeat_the_first_pass_to_the_last_bit(world_size: int):
    for each in answers(world_size):
        assert all(value == 0 for found in each.values() for value in found["drift"].values())
        assert not each["plain"]["drift"]  # a single micro-batch keeps its graph
        assert each["one text micro-batch"]["drift"].keys() == {"image"}
        assert each["frozen image tower"]["drift"].keys() == {"text"}


def test_a_replay_with_other_draws_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.train.caching._RandomState.restore", lambda self: None)
    with pytest.raises(RunError, match="the image tower gives other features when a micro-batch is repeated"):
        cached(SCENARIOS["4"])


def train(micro: int | None, steps: int = 3) -> dict[str, Any]:
    """Take some optimizer steps with clipping on this rank; return the weights after them."""
    accelerator = machine.accelerator("no")
    task = make(SCENARIOS["plain"])
    settings = [] if micro is None else [f"train.micro_batch_size={micro}"]
    config = load([], [f"data.global_batch_size={BATCH}", *settings])
    mine = share_of(whole_batch(task), distributed.rank(), distributed.world_size())
    wrapped, optimizer = accelerator.prepare(task, torch.optim.SGD(task.parameters(), lr=0.5, momentum=0.9))
    step = Step(accelerator, wrapped, optimizer, plan_step(config, accelerator.num_processes), clip=0.1)
    norms = [step(mine, is_read=True)["grad_norm"].item() for _ in range(steps)]
    assert min(norms) > 0.1, "nothing was clipped"
    return {name: parameter.detach().numpy() for name, parameter in task.named_parameters()}


def test_clipped_steps_on_two_processes_end_at_the_weights_of_plain_ones_on_one():
    expected = train(None)
    for found in toys.on_ranks(train, 2, 5):
        for name, weight in expected.items():
            difference = torch.from_numpy(found[name] - weight).norm()
            assert difference <= EXACT * torch.from_numpy(weight).norm(), name


def test_a_plan_of_whole_shares_is_a_plain_step():
    task = make(SCENARIOS["plain"])
    plan = SCENARIOS["plain"].plan(BATCH)
    assert Step(Accelerator(cpu=True), task, torch.optim.SGD(task.parameters(), lr=1.0), plan, None).cached is None


def train_without_logits() -> list[float]:
    """Take plain steps with a loss that reads neither the temperature nor the bias of its model."""
    accelerator = machine.accelerator("no")
    task = make(Scenario(1, 1, ("model.init_logit_bias=-3", SCENARIOS["only the other loss"].model[0])))
    mine = share_of(whole_batch(task), distributed.rank(), distributed.world_size())
    wrapped, optimizer = accelerator.prepare(task, torch.optim.SGD(task.parameters(), lr=0.5))
    step = Step(accelerator, wrapped, optimizer, StepPlan(*[len(mine["image"])] * 3), clip=None)
    return [distributed.mean_over_ranks(step(mine, is_read=True)["loss"]).item() for _ in range(3)]


def test_plain_steps_of_two_processes_do_not_wait_for_a_bias_that_no_loss_reads():
    for losses in toys.on_ranks(train_without_logits, 2):
        assert losses == pytest.approx(train_without_logits())
