"""What sharded runs save is read on any number of processes, bit for bit."""

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.train import sharded_state, sharding
from tests import toys


class Model(nn.Module):
    """Sizes that two and four processes cut unevenly, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 1)) for _ in range(2))
        self.norm, self.logit_scale = nn.BatchNorm2d(3), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).square().mean() * self.logit_scale.sum()


class Run:
    """A model after some steps of AdamW, sharded when there are several ranks and it is asked for."""

    def __init__(self, seed: int, steps: int, *, shards: bool = True) -> None:
        torch.manual_seed(seed)
        self.model = Model().to(memory_format=torch.channels_last)
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        if shards and distributed.world_size() > 1:
            sharding.shard(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.model(torch.randn(2, 3, 6, 6)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return sharded_state.optimizer_tensors(self.model, self.optimizer)

    def save(self, folder: Path) -> None:
        sharded_state.save(folder, sharded_state.staged(self.optimizer_tensors(), self.group), self.group)


def saved(folder: Path) -> dict[str, Tensor]:
    run = Run(0, 2)
    run.save(folder)
    return as_numpy({name: sharding.whole(value) for name, value in run.optimizer_tensors().items()})


def restored(folder: Path, shards: bool = True) -> dict[str, Tensor]:
    run = Run(1, 1, shards=shards)
    tensors = run.optimizer_tensors()
    sharded_state.load(folder, tensors)
    run.step()  # they are the optimizer's own
    assert all(float(state["step"]) == 3 for state in run.optimizer.state.values())
    sharded_state.load(folder, tensors)
    return as_numpy({name: sharding.whole(value) for name, value in tensors.items()})


def as_numpy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().numpy().copy() for name, value in tensors.items()}  # tensors need a living sender


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name] == value).all(), name


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_an_optimizers_state_is_read_on_any_number_of_processes(before: int, after: int, tmp_path: Path):
    folder = tmp_path / "optimizer"
    expected = toys.on_ranks(saved, before, folder)[0]
    for found in toys.on_ranks(restored, after, folder):
        assert_equal(found, expected)


def test_a_run_that_is_not_sharded_reads_what_a_sharded_one_wrote(tmp_path: Path):
    folder = tmp_path / "optimizer"
    expected = toys.on_ranks(saved, 2, folder)[0]
    assert_equal(restored(folder), expected)  # a process by itself
    assert_equal(toys.on_ranks(restored, 2, folder, False)[1], expected)  # DDP


def test_a_sharded_run_reads_what_one_process_wrote(tmp_path: Path):
    expected = saved(tmp_path / "optimizer")
    assert_equal(toys.on_ranks(restored, 2, tmp_path / "optimizer")[0], expected)


def test_files_are_safetensors_of_shards_and_nothing_is_pickled(tmp_path: Path):
    folder = tmp_path / "optimizer"
    expected = toys.on_ranks(saved, 2, folder)[0]
    files = sorted(folder.iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * 2
    rows, steps = [], 0
    for path in files:
        with safe_open(path, "pt") as file:
            rows.append(file.get_slice("exp_avg/layers.0.0.weight").get_shape()[0])
            steps += sum(name.startswith("step/") for name in file.keys())  # noqa: SIM118  (it is no dict)
    assert rows == [3, 2]
    assert steps == sum(name.startswith("step/") for name in expected)  # held by all ranks, written once


def test_copies_are_written_in_the_background_while_training_goes_on(tmp_path: Path):
    folder = tmp_path / "optimizer"

    def write() -> dict[str, Tensor]:
        run = Run(0, 2)
        expected = as_numpy({name: sharding.whole(value) for name, value in run.optimizer_tensors().items()})
        copies = sharded_state.staged(run.optimizer_tensors(), run.group)
        assert all(value.device.type == "cpu" for value in copies.values())
        writer = threading.Thread(target=sharded_state.save, args=(folder, copies, run.group))
        writer.start()
        for _ in range(20):
            run.step()
        writer.join(30)
        assert not writer.is_alive()
        return expected

    expected = toys.on_ranks(write, 2)[0]
    assert_equal(toys.on_ranks(restored, 2, folder)[0], expected)


def test_state_made_before_the_first_step_is_zero_and_changes_no_weight():
    for shards in (False, True):

        def begin(shards: bool = shards) -> None:
            run, untouched = Run(0, 0, shards=shards), Run(0, 0, shards=shards)
            tensors = run.optimizer_tensors()
            assert len(tensors) == 3 * len(list(run.model.parameters()))
            assert not any(sharding.whole(value).any() for value in tensors.values())
            assert all(group["lr"] == 0.1 for group in run.optimizer.param_groups)
            assert all(parameter.grad is None for parameter in run.model.parameters())
            for _ in range(2):
                torch.manual_seed(5)
                run.step()
                torch.manual_seed(5)
                untouched.step()
            for own, other in zip(run.model.parameters(), untouched.model.parameters(), strict=True):
                assert torch.equal(sharding.whole(own), sharding.whole(other))

        toys.on_ranks(begin, 2 if shards else 1)


def test_state_is_named_by_parameter():
    run = Run(0, 1)
    tensors = run.optimizer_tensors()
    assert tensors["exp_avg_sq/layers.1.2.bias"] is run.optimizer.state[run.model.layers[1][2].bias]["exp_avg_sq"]


def test_weights_come_whole_to_rank_0_and_back_into_shards():
    def there_and_back() -> list[str]:
        run, other = Run(0, 2), Run(1, 0)
        weights = sharded_state.full_tensors(run.model.state_dict())
        every = distributed.gather_objects(as_numpy(weights))[0]
        whole = {name: torch.from_numpy(value) for name, value in every.items()}
        sharded_state.distribute(whole, other.model.state_dict())
        for name, value in other.model.state_dict().items():
            assert torch.equal(sharding.whole(value), whole[name]), name
            if name in dict(other.model.named_parameters()):
                assert isinstance(value, DTensor)
        for name, value in run.model.named_parameters():
            assert torch.equal(sharding.whole(value), whole[name]), name
        assert all(value.is_contiguous() and not isinstance(value, DTensor) for value in weights.values())
        return list(weights)

    first, second = toys.on_ranks(there_and_back, 2)
    assert first == list(Model().state_dict())
    assert second == []


def test_whole_weights_are_copied_into_a_model_that_is_not_sharded():
    run, other = Run(0, 2), Run(1, 0)
    sharded_state.distribute(sharded_state.full_tensors(run.model.state_dict()), other.model.state_dict())
    for name, value in run.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


def refused(folder: Path, tensors: dict[str, Tensor]) -> str:
    with pytest.raises(RunError) as caught:
        sharded_state.load(folder, tensors)
    return str(caught.value)


def test_a_tensor_that_is_not_there_or_has_another_shape_is_refused(tmp_path: Path):
    folder = tmp_path / "optimizer"
    saved(folder)
    reasons = {
        "exp_avg/other": "Missing key in checkpoint state_dict: exp_avg/other",
        "exp_avg/logit_scale": "Size mismatch between saved torch.Size([1]) and current: torch.Size([2]) "
        "for exp_avg/logit_scale",
    }
    for name, reason in reasons.items():
        said = refused(folder, {name: torch.zeros(2)})
        assert said == f"{folder}: cannot be loaded on rank 0: {reason}; choose another checkpoint"


def refused_on_one(folder: Path) -> str:
    name = "exp_avg/logit_scale" if distributed.rank() == 0 else "exp_avg/other"
    return refused(folder, {name: torch.zeros(1)})


def test_what_one_rank_cannot_read_ends_all(tmp_path: Path):
    saved(tmp_path / "optimizer")
    first, second = toys.on_ranks(refused_on_one, 2, tmp_path / "optimizer")
    assert first == second
    assert "cannot be loaded on rank 1: Missing key" in first


def test_a_damaged_file_is_named(tmp_path: Path):
    folder = tmp_path / "optimizer"
    toys.on_ranks(saved, 2, folder)
    path = sorted(folder.iterdir())[1]
    path.write_bytes(path.read_bytes()[:100])
    for message in [*toys.on_ranks(refused, 2, folder, {}), refused(folder, {})]:
        assert message.startswith(f"{folder}: cannot be loaded on rank 0: {path.name} is damaged (")


def test_a_missing_file_is_refused_and_no_part_left_as_it_was(tmp_path: Path):
    folder = tmp_path / "optimizer"
    toys.on_ranks(saved, 4, folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        message = refused(folder, Run(1, 1).optimizer_tensors())
        assert any(part in message for part in ("is incomplete, a file is missing", "Size mismatch", "Missing key"))
        path.write_bytes(content)


def test_an_empty_folder_is_refused(tmp_path: Path):
    reason = "it holds no *.safetensors; choose another checkpoint"
    assert refused(tmp_path, {}) == f"{tmp_path}: cannot be loaded on rank 0: {reason}"


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"DCP_SHARDING_INFO": "{}"})
    assert "a header says no places of shards (KeyError('a'))" in refused(tmp_path, {})


def test_a_folder_that_cannot_be_written_is_said_on_all_ranks(tmp_path: Path):
    (tmp_path / "file").write_text("")

    def write() -> str:
        run = Run(0, 1)
        with pytest.raises(RunError) as caught:
            run.save(tmp_path / "file" / "optimizer")
        return str(caught.value)

    for message in toys.on_ranks(write, 2):
        assert message.startswith(f"{tmp_path}/file/optimizer: cannot be written: ")
        assert "Not a directory" in message
