"""The only module that talks to torch.distributed: ranks, gathers and sums; none of them inside a backward pass.

Everything works unchanged in a single process, where no process group exists.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from contrastive.errors import UserError

T = TypeVar("T")
Group: TypeAlias = dist.ProcessGroup


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


def from_main(value: T, group: Group | None = None) -> T:
    """Return rank 0's object on all ranks, of `group` if one is given."""
    if not is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, group=group)
    return values[0]


def background_group() -> Group:
    """Return a new group of all ranks for what a thread exchanges while training goes on; every rank calls it."""
    group: Any = dist.new_group(backend="gloo")
    return group  # type: ignore[no-any-return]


def copy_from_main(values: Iterable[Tensor]) -> None:
    """Make tensors what they are on rank 0."""
    if is_initialized():
        for value in values:
            dist.broadcast(value, 0)


def on_main(work: Callable[[], T]) -> T:
    """Return on all ranks what `work` returns on rank 0, which alone does it; an error of a user's is raised on all."""
    outcome: tuple[T | None, UserError | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (work(), None)
        except UserError as error:
            outcome = (None, error)
    value, failure = from_main(outcome)
    if failure is not None:
        raise failure.everywhere()
    return value  # type: ignore[return-value]


def set_timeout(seconds: float) -> None:
    """Let every exchange between processes that begins from now on wait at most `seconds`."""
    if is_initialized():
        public = getattr(dist, "set_timeout", None)  # not yet in torch 2.11
        (public or distributed_c10d._set_pg_timeout)(timedelta(seconds=seconds))


def tell_everyone(what: str, text: str = "1") -> None:
    """Note `what`, and `text` with it, where every rank may look at any time, without meeting the others."""
    if is_initialized():
        distributed_c10d._get_default_store().set(f"contrastive/{what}", text)


def was_told(what: str) -> bool:
    """Whether any rank has called `tell_everyone`."""
    return is_initialized() and bool(distributed_c10d._get_default_store().check([f"contrastive/{what}"]))


def told(what: str) -> str:
    """Return the text that a rank has last noted with `what`; empty where none has."""
    return distributed_c10d._get_default_store().get(f"contrastive/{what}").decode() if was_told(what) else ""


def is_failed_exchange(error: BaseException) -> bool:
    """Whether `error` says that ranks do not reach each other; gloo has no type of its own for that."""
    from_gloo = ("gloo/", "Application timeout caused pair closure")  # the second comes without the place in its code
    known = isinstance(error, RuntimeError) and any(words in str(error) for words in from_gloo)
    return isinstance(error, dist.DistError) or known


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean over ranks of a tensor of equal shape everywhere. It carries no gradient."""
    if not is_initialized():
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)  # gloo has no AVG
    return total / world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over ranks of a tensor of equal shape everywhere. It carries no gradient."""
    if not is_initialized() or world_size() == 1:
        return values.detach()
    total = values.detach().contiguous().clone()
    dist.all_reduce(total)
    return total


def max_over_ranks(values: Tensor) -> Tensor:
    """Return the largest value of any rank, of a tensor of equal shape everywhere. The host does not wait for it."""
    if not is_initialized() or world_size() == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def row_counts(count: int, device: torch.device) -> list[int]:
    """Return how many rows each rank brings, in rank order. The host waits for the answer."""
    if not is_initialized() or world_size() == 1:
        return [count]
    own = torch.tensor([count], device=device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    return [int(n) for n in torch.cat(counts).tolist()]


def gather_rows(x: Tensor, counts: list[int]) -> Tensor:
    """Concatenate every rank's rows [counts[rank], ...] to [B, ...], in rank order, without gradient."""
    if len(counts) == 1:
        return x.detach()
    most = max(counts)
    own = x.detach().contiguous()
    if len(own) < most:
        own = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
    parts = [torch.empty_like(own) for _ in counts]
    dist.all_gather(parts, own)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def own_rows_of_sum(x: Tensor, counts: list[int]) -> Tensor:
    """Return this rank's rows of the sum over ranks of [B, ...]: a reduce-scatter.

    gloo, whose reduce-scatter is young, sends an all-reduce, twice as much.
    """
    if len(counts) == 1:
        return x
    if dist.get_backend() == "nccl" and len(set(counts)) == 1:
        own = x.new_empty(counts[0], *x.shape[1:])
        dist.reduce_scatter_tensor(own, x.contiguous())
        return own
    total = x.contiguous()
    dist.all_reduce(total)
    own_rows: Tensor = total.split(counts)[rank()]
    return own_rows
