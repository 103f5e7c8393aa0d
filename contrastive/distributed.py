"""The only module that talks to torch.distributed: ranks, gathers, and a gather that carries gradients.

Everything works unchanged in a single process, where no process group exists.
"""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

T = TypeVar("T")


def is_initialized() -> bool:
    """Whether a process group of this launch exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 to world_size - 1; known from the launcher even before the process group exists."""
    return dist.get_rank() if is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def barrier() -> None:
    """Wait until every rank has come here."""
    if is_initialized():
        dist.barrier()


def gather_objects(value: T) -> list[T]:
    """Return every rank's object, in rank order, on all ranks."""
    if not is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean over ranks of a tensor of equal shape everywhere. It carries no gradient."""
    if not is_initialized():
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)  # gloo has no AVG
    return total / world_size()


def all_gather(x: Tensor) -> Tensor:
    """Concatenate every rank's rows: [b, ...] on each of W ranks to [W * b, ...], in rank order, without gradient."""
    if not is_initialized() or world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def all_gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenate every rank's rows: [b, ...] on each of W ranks to [W * b, ...], in rank order.

    The backward pass sums over ranks what each rank's loss says of a row, so that with the mean over ranks that DDP
    and FSDP take of parameter gradients, a loss that averages its own rows has the gradient of the global mean.
    Every rank must bring the same shape and run its backward.
    """
    return _AllGather.apply(x) if is_initialized() and world_size() > 1 else x


class _AllGather(torch.autograd.Function):
    # Our own, because torch.distributed.nn's gathers are deprecated in torch 2.15 and their successors absent in 2.11.
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004  (torch gives it)
        return all_gather(x)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:  # noqa: ARG004  (torch gives it)
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)  # SUM: gloo's reduce_scatter is young, and AVG once summed there
        return total.chunk(dist.get_world_size())[dist.get_rank()]
