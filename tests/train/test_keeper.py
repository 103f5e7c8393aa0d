import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from contrastive import distributed
from contrastive.config import load
from contrastive.errors import RunError
from contrastive.models import checkpoint
from contrastive.models.build import Built, build
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.guard import Guard
from contrastive.train.keeper import Keeper, Told
from contrastive.train.optim import optimizer
from contrastive.train.state import TrainingState
from contrastive.train.task import ContrastiveTask
from tests import toys


class Full(Checkpoints):
    """Checkpoints on a disk that is full while `full` says so."""

    full = True

    def write(self, step: int, size: int, fill: Callable[[Path], None]) -> Path:
        return super().write(step, 1 << 60 if self.full else size, fill)


def keeper(tmp_path: Path, *overrides: str, seed: int = 0, kind: type[Checkpoints] = Checkpoints) -> Keeper:
    config = load([], [*toys.TINY_MODEL, *overrides])
    torch.manual_seed(seed)
    built: Built = build(config.model)
    task = ContrastiveTask(built.model, built.preprocess, config)
    state = TrainingState(task, optimizer(task, config.optim), None)
    folder = kind(tmp_path, config.train.keep_checkpoints)
    guard, alive = Guard(config.train), lambda: None
    return Keeper(folder, state, built, Accelerator(cpu=True), guard, config.train, tell=tell, alive=alive)


def tell(step: int) -> Told:
    return Told({"step": step}, {"step": step, "samples_seen": 8 * step})


def weights(found: Keeper) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in found.state.task.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_is_the_moment_it_was_asked_for_whatever_comes_after(tmp_path: Path):
    found = keeper(tmp_path)
    expected, drawn = weights(found), torch.get_rng_state()
    found.save(3)
    with torch.no_grad():
        for parameter in found.state.task.parameters():
            parameter.add_(1)
    found.close()
    other = keeper(tmp_path, seed=1)
    other.restore(3)
    assert same(weights(other), expected)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(checkpoint.load(other.checkpoints.path(3)).model.state_dict(), expected)
    assert checkpoint.load(other.checkpoints.path(3)).info["step"] == 3


def test_a_step_is_saved_once(tmp_path: Path):
    found = keeper(tmp_path)
    found.save(3, wait=True)
    before = (found.checkpoints.path(3) / "manifest.json").stat().st_mtime_ns
    found.save(3, wait=True)
    found.close()
    assert (found.checkpoints.path(3) / "manifest.json").stat().st_mtime_ns == before


def test_failed_saves_are_borne_so_often_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    found = keeper(tmp_path, "train.max_failed_saves=2", kind=Full)
    found.checkpoints.full = False
    found.save(1, wait=True)
    found.checkpoints.full = True
    for step in (2, 3, 4):
        found.save(step)
    with pytest.raises(
        RunError, match=r"3 checkpoints in a row could not be written \(train\.max_failed_saves\): .* free"
    ):
        found.save(5)
    assert found.checkpoints.steps() == [1]
    assert caplog.text.count("earlier ones are intact") == 3


def test_a_save_that_is_waited_for_must_succeed(tmp_path: Path):
    with pytest.raises(RunError, match=r"a checkpoint could not be written: .* bytes are needed"):
        keeper(tmp_path, kind=Full).save(1, wait=True)


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path):
    found = keeper(tmp_path, "train.best_metric=a/b/c", "train.best_is=lowest", "train.keep_best=1")
    for step, value in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0), (5, 4.0)):
        found.save(step)
        found.note_evaluation(step, value)
    found.close()
    assert found.checkpoints.steps() == [5, 4, 2]
    said = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert said == {
        "metric": "a/b/c",
        "best_is": "lowest",
        "checkpoints": [{"step": 2, "value": 1.0, "checkpoint": "step-00000002"}],
    }


def test_weights_are_set_back_to_an_earlier_step_but_not_random_states(tmp_path: Path):
    found = keeper(tmp_path)
    found.save(3)
    expected = weights(found)
    with torch.no_grad():
        found.state.task.model.logit_scale.add_(1)
    found.save(6)
    torch.rand(3)
    drawn = torch.get_rng_state()
    assert found.set_back(before=6) == 3
    assert same(weights(found), expected)
    assert torch.equal(torch.get_rng_state(), drawn)
    with pytest.raises(RunError, match="rollback needs a checkpoint"):
        found.set_back(before=3)
    found.close()


def save_and_restore(tmp_path: Path) -> tuple[bool, bool, bool]:
    found, rank = keeper(tmp_path), distributed.rank()
    torch.manual_seed(100 + rank)
    drawn, expected = torch.get_rng_state(), weights(found)
    found.save(3, wait=True)
    found.close()
    other = keeper(tmp_path, seed=1)
    other.restore(3)
    return same(weights(other), expected), torch.equal(torch.get_rng_state(), drawn), rank == 0


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_rank_gets_its_own_random_state_back(tmp_path: Path, world_size: int):
    found = toys.on_ranks(save_and_restore, world_size, tmp_path)
    assert [one[:2] for one in found] == [(True, True)] * world_size


def restored_draws(tmp_path: Path) -> float:
    keeper(tmp_path).restore(3)
    return torch.rand(1).item()


def test_ranks_that_are_new_draw_numbers_of_their_own_and_the_same_each_time(tmp_path: Path):
    found = keeper(tmp_path)
    found.save(3, wait=True)
    found.close()
    first = toys.on_ranks(restored_draws, 4, tmp_path)
    assert len(set(first)) == 4
    assert toys.on_ranks(restored_draws, 4, tmp_path) == first


def failed(tmp_path: Path) -> str:
    with pytest.raises(RunError) as caught:
        keeper(tmp_path, kind=Full).save(1, wait=True)
    return str(caught.value)


def test_all_ranks_hear_that_a_checkpoint_failed(tmp_path: Path):
    said = toys.on_ranks(failed, 2, tmp_path)
    assert said[0] == said[1]
    assert "bytes are needed" in said[0]
