"""The losses that `loss.py` puts side by side: how each is called, what it keeps, and where it runs."""

import importlib.machinery
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PACKAGES = ("liger-kernel==0.8.5", "cut-cross-entropy==25.1.1", "inf-cl==1.2.1")
CHUNK = 512  # rows a chunk of the two chunked forms that PyTorch alone gives
BASELINE = "open_clip"
CONTROL = "plain"  # the one whose float32 rounding is the measure of ours


@dataclass(frozen=True)
class Inputs:
    """The leaves of one call: features [b, D], `logit_scale` [1] in log space, `logit_bias` [1], the pairs' ids [b]."""

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor
    pair: Tensor

    @property
    def scale(self) -> Tensor:
        """The factor of the cosines, [1]."""
        return self.logit_scale.exp()

    def leaves(self) -> list[Tensor]:
        """Return what takes a gradient."""
        return [self.image, self.text, self.logit_scale, self.logit_bias]


@dataclass(frozen=True)
class Place:
    """Where a loss is built."""

    device: str = "cpu"
    rank: int = 0
    world_size: int = 1


Call = Callable[[Inputs], Tensor]
Direction = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows times scale, columns, labels -> mean cross-entropy


@dataclass(frozen=True)
class Implementation:
    """One row of the tables. `bytes_per_logit` says what it takes at its peak, to refuse what would not fit."""

    build: Callable[[Place], Call]
    bytes_per_logit: float = 0.0
    needs_gpu: bool = False
    ranks: bool = False  # whether it can share the batch among processes
    autocast: bool = False  # written for float32 or autocast: runs under bf16 autocast where the features are bf16
    package: str | None = None


def peer_versions() -> dict[str, str]:
    """Return the versions of everything that the tables name; those of the cached folder stand in PACKAGES."""
    found = dict(package.split("==") for package in PACKAGES)
    for name in ("torch", "open_clip_torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _ours(place: Place, module: nn.Module) -> Call:
    module.to(place.device)

    def call(x: Inputs) -> Tensor:
        features = {"image_features": x.image, "text_features": x.text, "logit_scale": x.logit_scale}
        loss: Tensor = module(features | {"logit_bias": x.logit_bias}, {"caption_id": x.pair})["loss"]
        return loss

    return call


def _our_infonce(place: Place) -> Call:
    from contrastive.losses.infonce import InfoNCE

    return _ours(place, InfoNCE())


def _our_sigmoid(place: Place) -> Call:
    from contrastive.losses.sigmoid import Sigmoid

    return _ours(place, Sigmoid())


def open_clip_losses() -> Any:
    """Return open_clip's own module of losses, without the rest of the package, which takes seconds to import."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "loss.py"
    loader = importlib.machinery.SourceFileLoader("open_clip_losses", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _open_clip(place: Place) -> Call:
    shared = place.world_size > 1  # its only flags with right gradients whose memory shrinks with the ranks
    loss = open_clip_losses().ClipLoss(
        local_loss=shared, gather_with_grad=shared, rank=place.rank, world_size=place.world_size
    )
    return lambda x: loss(x.image, x.text, x.scale)


def _open_clip_sigmoid(place: Place) -> Call:
    loss = open_clip_losses().SigLipLoss(rank=place.rank, world_size=place.world_size)
    return lambda x: loss(x.image, x.text, x.scale, x.logit_bias)


def _plain(_: Place) -> Call:
    def call(x: Inputs) -> Tensor:
        logits = x.scale * x.image @ x.text.T
        return (F.cross_entropy(logits, x.pair) + F.cross_entropy(logits.T, x.pair)) / 2

    return call


def _checkpointed(_: Place) -> Call:
    """InfoNCE by rows in chunks that are computed again in the backward pass: 15 lines of stock PyTorch."""

    def chunk(image: Tensor, text: Tensor, scale: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = (scale * image @ text.T).float()
        return logits.logsumexp(1), logits.logsumexp(0), logits.gather(1, own[:, None])

    def call(x: Inputs) -> Tensor:
        parts = [
            checkpoint(chunk, image, x.text, x.scale, own, use_reentrant=False)
            for image, own in zip(x.image.split(CHUNK), x.pair.split(CHUNK), strict=True)
        ]
        rows, columns, right = zip(*parts, strict=True)
        columns_of_all = torch.stack(columns).logsumexp(0)
        return (torch.cat(rows).mean() + columns_of_all.mean()) / 2 - torch.cat(right).mean()

    return call


def _sigmoid_chunk(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, own: Tensor) -> Tensor:
    logits = (scale * image @ text.T + bias).float()
    return F.softplus(logits).sum() - logits.gather(1, own[:, None]).sum()


def _sigmoid_plain(_: Place) -> Call:
    return lambda x: _sigmoid_chunk(x.image, x.text, x.scale, x.logit_bias, x.pair) / len(x.image)


def _sigmoid_chunked(keep: bool) -> Callable[[Place], Call]:
    """Return the sigmoid loss by rows in chunks; `keep` leaves the logits to the backward pass as `chunk_size` of
    open_clip's development version does (3.3.0 has no such option), otherwise they are computed again.
    """  # noqa: D205

    def call(x: Inputs) -> Tensor:
        total = x.image.new_zeros((), dtype=torch.float32)
        for image, own in zip(x.image.split(CHUNK), x.pair.split(CHUNK), strict=True):
            parts = (image, x.text, x.scale, x.logit_bias, own)
            total = total + (
                _sigmoid_chunk(*parts) if keep else checkpoint(_sigmoid_chunk, *parts, use_reentrant=False)
            )
        return total / len(x.image)

    return lambda _: call


def _twice(direction: Direction) -> Call:
    """Return the symmetric loss of a cross-entropy that knows one direction, as most fused ones do."""

    def call(x: Inputs) -> Tensor:
        scale = x.scale
        rows = [(scale * side).to(side.dtype) for side in (x.image, x.text)]
        return (direction(rows[0], x.text, x.pair) + direction(rows[1], x.image, x.pair)) / 2

    return call


def _torch_linear(_: Place) -> Call:
    linear_cross_entropy = getattr(F, "linear_cross_entropy", None)
    if linear_cross_entropy is None:
        raise RuntimeError(f"F.linear_cross_entropy came with torch 2.15; this is {torch.__version__}")
    options = nn.LinearCrossEntropyOptions()  # its own choice of chunks
    return _twice(lambda rows, columns, labels: linear_cross_entropy(rows, columns, labels, options=options))


def _cut(place: Place) -> Call:
    from cut_cross_entropy import linear_cross_entropy

    if place.device == "cpu":  # all it has there: torch.compile of the whole matrix
        return _twice(lambda *parts: linear_cross_entropy(*parts, impl="torch_compile"))
    # Its default drops gradients below a threshold, which are all of them where the negatives share the softmax.
    return _twice(lambda *parts: linear_cross_entropy(*parts, impl="cce", filter_eps=None))


def _liger(_: Place) -> Call:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

    return _twice(lambda rows, columns, labels: fused(rows, columns, labels, accum_dtype=torch.float32))


def _inf_cl(_: Place) -> Call:
    from inf_cl import cal_flash_loss

    return _twice(lambda rows, columns, labels: cal_flash_loss(rows, columns, labels).mean())


IMPLEMENTATIONS: Mapping[str, Mapping[str, Implementation]] = {
    "infonce": {
        "open_clip": Implementation(_open_clip, 16.7, ranks=True, autocast=True),
        "ours": Implementation(_our_infonce, ranks=True),
        "plain": Implementation(_plain, 16.5, autocast=True),
        "checkpointed": Implementation(_checkpointed, autocast=True),
        "torch_linear_ce": Implementation(_torch_linear),
        "cut_cross_entropy": Implementation(_cut, 16.5, package="cut-cross-entropy"),
        "liger": Implementation(_liger, needs_gpu=True, package="liger-kernel"),
        "inf_cl": Implementation(_inf_cl, needs_gpu=True, package="inf-cl"),
    },
    "sigmoid": {
        "open_clip": Implementation(_open_clip_sigmoid, 21.0, ranks=True, autocast=True),
        "ours": Implementation(_our_sigmoid, ranks=True),
        "plain": Implementation(_sigmoid_plain, 13.0, autocast=True),
        "chunked": Implementation(_sigmoid_chunked(keep=True), 5.5, autocast=True),
        "checkpointed": Implementation(_sigmoid_chunked(keep=False), autocast=True),
    },
}


def peak_bytes(implementation: Implementation, n: int, dim: int, world_size: int) -> float:
    """Return what one process takes at the most, about: its share of the logits, and a few copies of the features."""
    return implementation.bytes_per_logit * n * n / world_size + 12 * 4 * n * dim
