"""Gradient caching: the exact gradient of a whole batch's loss in the memory of micro-batches.

The features of a batch are computed by micro-batches without keeping graphs, the losses are taken once on all of
them, and every micro-batch is then computed again, with the same random draws, to carry its features' gradient into
the weights (Gao et al. 2021, arXiv:2101.06983). Of each tower one micro-batch of the first pass keeps its graph, so
that k micro-batches cost k - 1 forward passes more than a plain step.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from contrastive.errors import ConfigError, RunError
from contrastive.settings import Config

Tower = Literal["image", "text"]
Batch = dict[str, Tensor]  # as of data.loader
TOWERS: tuple[Tower, Tower] = ("image", "text")
INPUTS = {"image": ("image", "seed"), "text": ("text",)}
# How far the features of two forward passes may lie apart through rounding alone; features are unit vectors.
ROUNDING = {"no": 1e-5, "fp16": 2.0**-9, "bf16": 2.0**-6}


@dataclass(frozen=True)
class StepPlan:
    """How a process computes its `share` of the global batch: whole, or in micro-batches of each tower."""

    share: int
    image: int
    text: int

    @property
    def kind(self) -> Literal["plain", "cached"]:
        """`plain` when both towers take the whole share at once."""
        return "plain" if self.image == self.text == self.share else "cached"

    def __str__(self) -> str:
        if self.kind == "plain":
            return f"plain, {self.share} samples per process at once"
        image, text = _counted("image", self.share, self.image), _counted("text", self.share, self.text)
        return f"cached, {image} and {text} per process"


def plan_step(config: Config, world_size: int) -> StepPlan:
    """Return how the steps of a run on `world_size` processes are computed.

    Raises:
        ConfigError: a micro-batch is larger than a process's share of the batch.
    """
    batch, train = config.data.global_batch_size, config.train
    share = batch // world_size
    for key, size in (("micro", train.micro_batch_size), ("text_micro", train.text_micro_batch_size)):
        if size is not None and size > share:
            rule = f"is more than the {share} samples of a process (data.global_batch_size {batch} over {world_size} "
            rule += "processes)" if world_size > 1 else "process)"
            raise ConfigError(f"train.{key}_batch_size: {size} {rule}; take at most {share}")
    image = share if train.micro_batch_size is None else train.micro_batch_size
    return StepPlan(share, image, image if train.text_micro_batch_size is None else train.text_micro_batch_size)


class CachedBackward:
    """Forward and backward of a batch by micro-batches: leaves in `.grad` what a plain step would.

    `drift` is the largest difference between a micro-batch's features in the two passes, by tower, since the last
    `forget_drift`. On a CPU a drift beyond rounding is an error at once; elsewhere asking would make the host wait, so
    the loop asks when it reads the other figures of a step.
    """

    def __init__(self, accelerator: Accelerator, task: nn.Module, plan: StepPlan) -> None:
        self.accelerator, self.task = accelerator, task
        self.module = accelerator.unwrap_model(task)
        self.sizes: dict[Tower, int] = {"image": plan.image, "text": plan.text}
        # A sharded model frees its weights between forward and backward: no graph is kept over other forward passes.
        self.keeps_graph = accelerator.num_processes == 1 or isinstance(task, DistributedDataParallel)
        self.drift: dict[Tower, Tensor] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the batch's loss; every parameter's gradient is added to its `.grad`.

        Raises:
            RunError: on a CPU, a micro-batch's features differ between the passes.
        """
        passes = {tower: self._first_pass(tower, batch) for tower in TOWERS}
        terms, roots = self._score(passes, batch)
        after = _RandomState(self.accelerator.device)
        with _fixed_statistics(self.module):
            self._second_pass(passes, roots)
        after.restore()
        return terms

    def forget_drift(self) -> None:
        """Begin to measure anew."""
        self.drift = {}

    def _first_pass(self, tower: Tower, batch: Batch) -> "_Pass":
        inputs = {name: batch[name].split(self.sizes[tower]) for name in INPUTS[tower] if name in batch}
        count = len(inputs[tower])
        trained = any(parameter.requires_grad for parameter in self.module.model.towers()[tower])
        pieces = []
        for number in range(count):
            micro = {name: parts[number] for name, parts in inputs.items()}
            state = _RandomState(self.accelerator.device)
            with torch.set_grad_enabled(trained and self.keeps_graph and number == count - 1):
                pieces.append(_Piece(tower, micro, state, self._features(tower, micro)))
        return _Pass(pieces, trained)

    def _features(self, tower: Tower, micro: Batch) -> Tensor:
        with self.accelerator.no_sync(self.task):  # DDP decides at a forward pass whether its gradients are reduced
            features: Tensor = self.task(micro, "features")[f"{tower}_features"]
        return features

    def _score(self, passes: Mapping[Tower, "_Pass"], batch: Batch) -> tuple[dict[str, Tensor], list["_Root"]]:
        """Take the losses once; return the terms, and the gradients of everything that is not in a tower.

        The gradients of the features are left with their micro-batches.
        """
        features = {tower: each.whole() for tower, each in passes.items()}
        named = {f"{tower}_features": whole for tower, whole in features.items()}
        with self.accelerator.autocast():
            terms: dict[str, Tensor] = self.module.score({**named, **self.module.model.logit_parameters()}, batch)
        loss = terms["loss"]
        if self.accelerator.scaler is not None:
            loss = self.accelerator.scaler.scale(loss)
        trained = [tower for tower, each in passes.items() if each.trained]
        own = [*self.module.model.logit_parameters().values(), *self.module.losses.parameters()]
        own = [parameter for parameter in own if parameter.requires_grad]
        wanted = [*(features[tower] for tower in trained), *own]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        for tower, gradient in zip(trained, gradients, strict=False):
            passes[tower].hand_out(gradient)
        return terms, list(zip(own, gradients[len(trained) :], strict=True))

    def _second_pass(self, passes: Mapping[Tower, "_Pass"], roots: list["_Root"]) -> None:
        """Carry all gradients into the parameters, the last ones together, so that ranks exchange them once.

        A kept graph is used first: at no time is there more than one graph a tower, as in a plain step of one
        micro-batch. A tower of a single micro-batch has only the kept graph, which joins the last ones.
        """
        closing: list[_Piece] = []
        for each in passes.values():
            pieces = each.pieces if each.trained else []
            if len(pieces) > 1 and self.keeps_graph:
                self._carry(pieces.pop())
            closing += pieces[-1:]
            for piece in pieces[:-1]:
                self._replay(piece)
                self._carry(piece)
        for piece in closing:
            if not piece.features.requires_grad:
                self._replay(piece, is_closing=True)
        self._close([*(piece.root() for piece in closing), *roots])

    def _carry(self, piece: "_Piece") -> None:
        with self.accelerator.no_sync(self.task):
            torch.autograd.backward(*piece.root())
        piece.features = piece.features.detach()  # frees the graph

    def _replay(self, piece: "_Piece", *, is_closing: bool = False) -> None:
        """Compute a micro-batch's features again, with their graph, and measure how far they are from the first."""
        piece.state.restore()
        if is_closing and not isinstance(self.task, DistributedDataParallel):
            features: Tensor = self.task(piece.inputs, "features")[f"{piece.tower}_features"]
        else:
            features = self._features(piece.tower, piece.inputs)
        drift = (features.detach() - piece.features).abs().amax()
        known = self.drift.get(piece.tower)
        self.drift[piece.tower] = drift if known is None else torch.maximum(known, drift)
        if drift.device.type == "cpu":
            require_replayed(piece.tower, float(drift), self.accelerator.mixed_precision)
        piece.features = features

    def _close(self, roots: list["_Root"]) -> None:
        """Run the one backward pass in which ranks reduce their gradients."""
        if not isinstance(self.task, DistributedDataParallel):
            torch.autograd.backward([tensor for tensor, _ in roots], [gradient for _, gradient in roots])
            return
        # DDP waits for each parameter; one that the last micro-batches do not read gets a zero, which takes no memory.
        reached = _leaves([tensor for tensor, _ in roots])
        missing = [p for p in self.task.parameters() if p.requires_grad and id(p) not in reached]
        roots = [*roots, *((p, torch.zeros((), dtype=p.dtype, device=p.device).expand_as(p)) for p in missing)]
        with self.accelerator.trigger_sync_in_backward(self.task):
            torch.autograd.backward([tensor for tensor, _ in roots], [gradient for _, gradient in roots])
        self.task.require_forward_param_sync = True  # the next step begins with rank 0's buffers, as a plain one does


def require_replayed(tower: str, drift: float, precision: str) -> None:
    """Refuse a second forward pass that was not the first one again. `precision` is Accelerate's word for it.

    Raises:
        RunError: the features of the two differ by more than rounding.
    """
    if drift > ROUNDING.get(precision, ROUNDING["bf16"]):
        rule = "it draws numbers that torch's random state does not decide, or keeps a state of its own"
        what = f"the {tower} tower gives other features when a micro-batch is repeated (difference up to {drift:.2g})"
        raise RunError(f"{what}: {rule}; mend it, or unset train.micro_batch_size and train.text_micro_batch_size")


_Root = tuple[Tensor, Tensor]  # a tensor and its gradient


@dataclass
class _Piece:
    """A micro-batch of a tower. `features` have a graph only while one is kept."""

    tower: Tower
    inputs: Batch
    state: "_RandomState"
    features: Tensor
    gradient: Tensor | None = None

    def root(self) -> _Root:
        """Return where a backward pass begins."""
        assert self.gradient is not None, "the losses are taken between the passes"
        return self.features, self.gradient


@dataclass
class _Pass:
    """All micro-batches of a tower, and whether anything in it is trained."""

    pieces: list[_Piece]
    trained: bool

    def whole(self) -> Tensor:
        """Return the features of the batch as a leaf [b, E]."""
        return torch.cat([piece.features.detach() for piece in self.pieces]).requires_grad_(self.trained)

    def hand_out(self, gradient: Tensor) -> None:
        """Give every micro-batch its rows of the gradient [b, E]."""
        rows = gradient.split([len(piece.features) for piece in self.pieces])
        for piece, own in zip(self.pieces, rows, strict=True):
            piece.gradient = own


class _RandomState:
    """What the next random draws on the CPU and on `device` will be."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cpu = device, torch.get_rng_state()
        self.own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.get_device_module(self.device).set_rng_state(self.own, self.device)


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Hold still the running statistics of normalisation layers; batches are normalised as before."""
    layers = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.training]
    before = [(layer, layer.track_running_stats, layer.momentum) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # of instance norms
        layer.track_running_stats = layer.track_running_stats and not isinstance(layer, nn.modules.batchnorm._BatchNorm)
    try:
        yield
    finally:
        for layer, tracks, momentum in before:
            layer.track_running_stats, layer.momentum = tracks, momentum


def _leaves(tensors: list[Tensor]) -> set[int]:
    """Return the ids of the leaf tensors that a backward pass from `tensors` gives gradients to."""
    found = {id(tensor) for tensor in tensors if tensor.grad_fn is None}
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        following = [after for after, _ in node.next_functions if after is not None and after not in seen]
        seen.update(following)
        waiting += following
    return found


def _counted(tower: Tower, share: int, size: int) -> str:
    count, rest = -(-share // size), share % size
    last = f" (the last of {rest})" if rest else ""
    return f"{count} {tower} micro-batch{'es' if count > 1 else ''} of {size}{last}"
