import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.config import load
from contrastive.errors import RunError
from contrastive.models.build import build
from contrastive.models.checkpoint import write_tensors
from contrastive.train.ema import Ema
from contrastive.train.optim import optimizer
from contrastive.train.state import TrainingState, random_state, restore_random_state
from contrastive.train.task import ContrastiveTask
from tests import toys
from tests.train.toys import batch

CPU = torch.device("cpu")
CONVOLUTIONS = [
    "model.image={name: cnn}",
    "model.text={name: lstm, width: 8}",
    "model.tokenizer={context_length: 12}",
    "model.embed_dim=8",
    "model.image_size=16",
]


def trained(*overrides: str, seed: int = 0, steps: int = 2, average: bool = True) -> TrainingState:
    """Return the state of a small task after some steps."""
    config = load([], [*(overrides or toys.TINY_MODEL), "losses={a: {name: infonce}}"])
    torch.manual_seed(seed)
    built = build(config.model)
    task = ContrastiveTask(built.model, built.preprocess, config).to(memory_format=torch.channels_last)
    state = TrainingState(task, optimizer(task, config.optim), Ema(built.model, 0.9) if average else None)
    for step in range(steps):
        task(batch(4))["loss"].backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema is not None:
            state.ema.update(step + 1)
    return state


def save(folder: Path, state: TrainingState) -> Path:
    folder.mkdir()
    for name, tensors in state.tensors().items():
        write_tensors(folder / name, {k: v.detach().contiguous().clone() for k, v in tensors.items()})
    return folder


def everything(state: TrainingState) -> dict[str, Tensor]:
    return {f"{file}/{k}": v.clone() for file, tensors in state.tensors().items() for k, v in tensors.items()}


@pytest.mark.parametrize("overrides", [(), tuple(CONVOLUTIONS)])
def test_a_state_that_is_loaded_is_the_saved_one_and_steps_like_it(tmp_path: Path, overrides: tuple[str, ...]):
    state = trained(*overrides)
    folder = save(tmp_path / "a", state)
    other = trained(*overrides, seed=1, steps=0)
    other.load(folder)
    for _ in range(2):
        before, after = everything(state), everything(other)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        for one in (state, other):
            one.task(batch(4))["loss"].backward()
            one.optimizer.step()
            one.optimizer.zero_grad()
            one.ema.update(3)
    parameter = next(p for p in other.task.parameters() if p.ndim == 4)
    assert other.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_a_state_has_the_weights_the_optimizers_and_the_averages_names(tmp_path: Path):
    state = trained()
    tensors = state.tensors()
    assert set(tensors) == {"model.safetensors", "ema.safetensors", "training.safetensors"}
    assert tensors["ema.safetensors"].keys() == tensors["model.safetensors"].keys()
    assert {name.split("/")[1] for name in tensors["training.safetensors"]} == {"step", "exp_avg", "exp_avg_sq"}
    numbers = sum(parameter.numel() for parameter in state.task.parameters())
    assert state.size() == pytest.approx(4 * 4 * numbers, rel=0.01)  # weights, their average and two moments


def test_an_average_that_is_new_begins_at_the_loaded_weights(tmp_path: Path):
    folder = save(tmp_path / "a", trained(average=False))
    other = trained(seed=1, steps=0)
    other.load(folder)
    for name, value in other.ema.averages.items():
        assert torch.equal(value, other.task.model.state_dict()[name])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.model_cfg.embed_dim=24"], "has shape"),
        (["model.model_cfg.text_cfg.layers=2"], "is only in this run"),
        (["model.init_logit_bias=-10"], "logit_bias is only in this run"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_taken_over(
    tmp_path: Path, overrides: list[str], said: str
):
    folder = save(tmp_path / "a", trained())
    other = trained(*toys.TINY_MODEL, *overrides, seed=1, steps=1)
    before = everything(other)
    with pytest.raises(RunError, match=rf"model.safetensors: is of another model: .*{said}"):
        other.load(folder)
    assert all(torch.equal(value, before[name]) for name, value in everything(other).items())


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path):
    state = trained()
    folder = save(tmp_path / "a", state)
    write_tensors(folder / "training.safetensors", {"optimizer/exp_avg/model.nothing": torch.ones(2)})
    with pytest.raises(RunError, match=r"training.safetensors: is of another model: .* is only in this run"):
        state.load(folder)


def draws() -> list[float]:
    numbers = np.random.mtrand._rand  # numpy's global state, which a user's part may draw from
    return [torch.rand(1).item(), numbers.rand(), random.random(), random.gauss(), numbers.standard_normal()]


def test_random_draws_go_on_where_they_were(tmp_path: Path):
    random.gauss()  # one is left over for the next call
    np.random.mtrand._rand.standard_normal()
    state = {name: value.clone() for name, value in random_state(CPU).items()}
    expected = draws()
    assert draws() != expected
    write_tensors(tmp_path / "random.safetensors", state)
    restore_random_state(state, CPU)
    assert draws() == expected
