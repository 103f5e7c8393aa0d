"""What a sharded run saves and loads: each rank its own shards, as safetensors files, in torch's distributed format.

What any number of processes wrote, any other number reads, and so does a run that is not sharded. Names, shapes and
places of the shards stand in the headers of the files; torch's usual index file is a pickle, neither written nor read.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.train.sharding import whole


@torch.no_grad()
def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors whole and on the host, on rank 0, and nothing on the others; all ranks call it.

    One tensor at a time is gathered: the others need room for one, rank 0's host for all.
    """
    found = {}
    for name, value in tensors.items():
        one = whole(value)
        if distributed.rank() == 0:
            found[name] = _to_host(one)
    return found


@torch.no_grad()
def distribute(weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy whole weights, which every rank has, into tensors of their names and shapes: each rank its own shards."""
    for name, own in tensors.items():
        if isinstance(own, DTensor):
            own.copy_(distribute_tensor(weights[name], own.device_mesh, own.placements, src_data_rank=None))
        else:
            own.copy_(weights[name])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's live state by the names of its parameters, as `exp_avg/NAME`; zeros before the first step.

    All parameters of the optimizer have a state then, so that ranks and runs name the same tensors. What is written
    into them is the optimizer's.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's is a wrapper
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = [parameter for group in inner.param_groups for parameter in group["params"]]
    _begin(inner, [parameter for parameter in trained if not inner.state[parameter]])
    return {
        f"{key}/{names[parameter]}": value for parameter in trained for key, value in inner.state[parameter].items()
    }


def _begin(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let the optimizer make the state of parameters that have none: an update by nothing, whose traces are erased."""
    if not parameters:
        return
    gradients = [(p, p.grad) for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter, _ in gradients:
        parameter.grad = None
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # nor does weight decay, which is a share of the rate
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in gradients:
        parameter.grad = gradient
    for parameter in parameters:
        for value in optimizer.state[parameter].values():
            value.zero_()


def staged(tensors: Mapping[str, Tensor], group: ProcessGroup | None) -> dict[str, Tensor]:
    """Return copies in host memory, of this rank's shards alone, which `save` can write while training goes on.

    `group` is a gloo group of the ranks that the tensors lie on; None in a single process.
    """
    # A mesh of the CPU: on the tensors' own, a copy of a device's shard would be sent back to the device.
    mesh = None if group is None else DeviceMesh.from_group(group, "cpu")
    return {name: _staged(value.detach(), mesh) for name, value in tensors.items()}


def _staged(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    if not isinstance(value, DTensor):
        return _to_host(value)
    assert mesh is not None, "sharded tensors lie on several ranks"
    own = _to_host(value.to_local())
    found: Tensor = DTensor.from_local(
        own, mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )
    return found


def _to_host(value: Tensor) -> Tensor:
    """Return a copy in plain row order, which is all that safetensors knows."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value)


def save(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    """Write `staged` tensors into a folder of their own, each rank its shards; what all ranks hold is written once.

    All ranks of `group` call it, in any thread: `group` carries nothing else meanwhile. None in a single process. The
    files are on the disk when it returns; takes the size of this rank's shards again, in host memory.

    Raises:
        RunError: it could not be written, on any rank.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise RunError(f"{folder}: cannot be written: {_reason(error)}") from error


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded in any way or whole, from what `save` wrote; all ranks call it and read what they need.

    Tensors of the folder that are not asked for are left alone.

    Raises:
        RunError: a tensor is missing, incomplete, of another shape, or cannot be read, on any rank.
    """
    # No rank goes on to the next exchange while another has failed.
    for rank, problem in enumerate(distributed.gather_objects(_filled(folder, tensors))):
        if problem is not None:
            raise RunError(f"{folder}: cannot be loaded on rank {rank}: {problem}; choose another checkpoint")


def _filled(folder: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """Return why tensors could not be filled, or None."""
    problem = _damage(folder)
    if problem is None:
        reader = HuggingFaceStorageReader(str(folder))
        try:
            state_dict_loader.load(dict(tensors), storage_reader=reader, no_dist=True)
        except CheckpointException as error:
            problem = _reason(error)
    return problem


def _damage(folder: Path) -> str | None:
    """Return what is wrong with the files, as far as their headers tell: torch would not name the file.

    It would even leave the rows of a missing file as they were.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return "it holds no *.safetensors"
    for path in files:
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{path.name} is damaged ({error})"
    try:
        held = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"a header says no places of shards ({error!r})"
    for name, each in held.items():
        assert isinstance(each, TensorStorageMetadata), "safetensors hold tensors"
        if sum(prod(chunk.sizes) for chunk in each.chunks) != prod(each.size):
            return f"{name} is incomplete, a file is missing"
    return None


def _reason(error: CheckpointException) -> str:
    first, _ = min(error.failures.items())[1]
    return str(first).splitlines()[0].removesuffix(".")
