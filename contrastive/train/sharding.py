"""Sharded training: weights, gradients and optimizer state cut over the processes, gathered block by block (FSDP2).

Torch's `fully_shard` is called here and not through Accelerate, which falls back to DDP on a CPU; gloo and NCCL take
one path. A group of parameters is whole only while its block runs; what belongs to no block is in the group of the
task itself, whole from the forward pass to the end of the backward pass.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from contrastive import distributed
from contrastive.errors import ConfigError

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of all towers, none inside another.

    A block is a child of a list (or of a module of several such children) whose children are of one class and have
    layers of their own; a stage gives way to the blocks in it where they hold at least half of its parameters. A class
    that occurs once is no block. No class or library is named, so towers from outside are cut the same way.
    """
    found = _repeated(model)
    count = Counter(type(block) for block in found)
    return [block for block in found if count[type(block)] > 1]


def _repeated(module: nn.Module) -> list[nn.Module]:
    children = [child for child in module.children() if _size(child)]
    inner = [_repeated(child) for child in children]
    if not _repeats(module, children):
        return [block for own in inner for block in own]
    finest = (
        own if 2 * sum(map(_size, own)) >= _size(child) else [child] for child, own in zip(children, inner, strict=True)
    )
    return [block for some in finest for block in some]


def _repeats(module: nn.Module, children: list[nn.Module]) -> bool:
    if len({type(child) for child in children}) != 1:
        return False
    if isinstance(module, LISTS):
        return any(_is_composite(child) for child in children)
    # Siblings outside of a list must be deeper: three convolutions with their norms are one block, not three.
    return len(children) > 1 and any(_is_composite(part) for child in children for part in child.children())


def _is_composite(module: nn.Module) -> bool:
    return any(_size(child) for child in module.children())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def compile_blocks(model: nn.Module) -> None:
    """Compile the forward of each block on its own, at its first call. Before `checkpoint_blocks` and `shard`.

    Their hooks stay outside of the compiled code, and blocks of one kind share it. A model without blocks is compiled
    whole.
    """
    for block in blocks(model) or [model]:
        block.forward = torch.compile(block.forward)


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, which computes the rest again.

    Names of modules and parameters stay as they are.

    Raises:
        ConfigError: the model has no blocks.
    """
    found = blocks(model)
    if not found:
        rule = "this model repeats no block whose activations could be recomputed"
        raise ConfigError(f"train.gradient_checkpointing: {rule}; set it to false")
    for block in found:
        again = partial(checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block))
        block.forward = again


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's forward and of its repetition, which runs outside of what is around the first.

    Another attention kernel would save other tensors and round otherwise, and running statistics would move twice.
    """
    norms = [layer for layer in block.modules() if isinstance(layer, _NormBase) and layer.training]
    return nullcontext(), _repetition({layer: layer.track_running_stats for layer in norms}, _attention_kernels())


@contextmanager
def _repetition(norms: dict[_NormBase, bool], kernels: list[SDPBackend]) -> Iterator[None]:
    before = [(layer, layer.track_running_stats, layer.momentum, layer.num_batches_tracked) for layer in norms]
    for layer, tracks in norms.items():
        layer.track_running_stats, layer.momentum = tracks, 0.0  # still handed to the kernel, which keeps them
        layer.num_batches_tracked = None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
    try:
        with sdpa_kernel(kernels):
            yield
    finally:
        for layer, tracks, momentum, count in before:
            layer.track_running_stats, layer.momentum, layer.num_batches_tracked = tracks, momentum, count


def _attention_kernels() -> list[SDPBackend]:
    """Return the kernels that attention may take here and now."""
    enabled = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
    }
    return [kernel for kernel, is_on in enabled.items() if is_on]


def shard(task: nn.Module, mesh: DeviceMesh | None = None) -> None:
    """Cut the parameters of a task over the processes, in place: each block, each large embedding, and the rest.

    Every rank calls it with equal weights on its device, after `checkpoint_blocks` and before an optimizer is made.
    Gradients are means over ranks, as DDP's are; buffers stay each rank's own. `mesh` is all processes unless given.
    """
    if mesh is None:
        mesh = init_device_mesh(next(task.parameters()).device.type, (distributed.world_size(),))
    task.to(memory_format=torch.contiguous_format)  # shards are rows of plain memory; fully_shard refuses others
    for block in _unshared(task, blocks(task)):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for embedding in _unshared(task, _large_embeddings(task)):
        # Its backward pass needs the token ids alone: it is not gathered a second time.
        fully_shard(embedding, mesh=mesh, reshard_after_forward=True).set_unshard_in_backward(False)
    fully_shard(task, mesh=mesh, reshard_after_forward=False)


def _large_embeddings(task: nn.Module) -> list[nn.Module]:
    """Return the embeddings outside of blocks that weigh at least as much as the lightest block."""
    found = blocks(task)
    inside = {id(module) for block in found for module in block.modules()}
    least = min(map(_size, found), default=0)
    outside = [module for module in task.modules() if id(module) not in inside]
    return [module for module in outside if isinstance(module, nn.Embedding) and _size(module) >= least]


def _unshared(task: nn.Module, modules: list[nn.Module]) -> list[nn.Module]:
    """Return the modules none of whose parameters is also another's: tied ones must lie in one group, the task's."""
    everywhere = Counter(id(parameter) for _, parameter in task.named_parameters(remove_duplicate=False))

    def is_alone(module: nn.Module) -> bool:
        own = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
        return all(everywhere[key] == count for key, count in own.items())

    return [module for module in modules if is_alone(module)]


def root_share(task: nn.Module) -> float:
    """Return which share, 0..1, of a task's parameters `shard` leaves to the group that stays whole during a step."""
    groups = [*_unshared(task, blocks(task)), *_unshared(task, _large_embeddings(task))]
    return 1 - sum(map(_size, groups)) / _size(task)


@contextmanager
def unsharded(task: nn.Module) -> Iterator[None]:
    """Hold all weights of a sharded task whole on every rank, for an evaluation: all ranks enter and leave together.

    Within, any method of the model can be called, and ranks need not make equal numbers of calls: nothing is gathered.
    Costs the memory of the whole model. Nothing happens to a task that is not sharded.
    """
    groups = [module for module in task.modules() if isinstance(module, FSDPModule)]
    if isinstance(task, FSDPModule):
        # A block whose forward ran before the task's ever did would take itself for the root.
        task._get_fsdp_state()._lazy_init()
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.set_reshard_after_forward(group is not task, recurse=False)
            group.reshard()


def whole(value: Tensor) -> Tensor:
    """Return a tensor as one process would hold it; what lies in shards is gathered, so all ranks must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value
