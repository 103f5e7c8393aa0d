"""The one embedding pass that all tasks of a dataset read.

Samples are shared by index over the processes and gathered by id, so the result depends neither on their number nor on
batch size nor workers. N images, M texts, E embed_dim.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from contrastive import distributed
from contrastive.errors import DataError, ModelError, Preempted, RunError, UserError
from contrastive.eval.datasets import EvalDataset
from contrastive.processes import Workers

Precision = Literal["fp32", "bf16"]
Progress = Callable[[str, int, int], None]  # what ("digits images"), done, total; of this process's share
Transform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]
Share = tuple[range, Tensor | None]  # the ids of one process and their features; None where it has no id

COLLAPSED = 1e-6  # 1 - mean cosine: below it rows differ by float32 noise alone
NEARLY_COLLAPSED = 1e-2


class ContrastiveModel(Protocol):
    """What evaluation needs of a model: an nn.Module (for eval() and its restoring) with two encoders."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image features [B, E] of float32 [B, 3, H, W]."""
        ...

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text features [B, E] of int64 [B, context_length]."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Return all submodules, as nn.Module does."""
        ...


@dataclass(frozen=True)
class Embeddings:
    """L2-normalised float32 features on the CPU; row i is image i or text id i of `dataset`."""

    dataset: EvalDataset
    image_features: Tensor  # [N, E]
    text_features: Tensor  # [M, E]
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def embed(
    model: ContrastiveModel,
    transform: Transform,
    tokenizer: Tokenizer,
    dataset: EvalDataset,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Embeddings:
    """Embed every image and text of `dataset` once, on all processes together; every process returns the whole.

    The model is put into eval mode and back; no random number generator moves.

    `model` is on `device`, unwrapped (no DDP). `workers` are processes of this rank that decode images; 0 decodes in
    this one. `precision` is the forward's alone; what follows it is float32. `progress` is told after each batch, and
    may raise Preempted.

    Raises:
        DataError: an image cannot be read, or processes see different copies of the data.
        ModelError: features are not finite, are zero, or are all the same.
    """
    start, device, name = time.perf_counter(), torch.device(device), dataset.spec.name
    share = slice(distributed.rank(), None, distributed.world_size())
    image_ids, text_ids = range(len(dataset))[share], range(len(dataset.texts))[share]
    images = _image_batches(dataset, image_ids, transform, batch_size, workers, device)
    texts = (
        tokenizer([dataset.texts[i] for i in text_ids[at : at + batch_size]])
        for at in range(0, len(text_ids), batch_size)
    )

    def watched(what: str, batches: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        done = 0
        for batch in batches:
            yield batch.to(device, non_blocking=True)
            done += len(batch)
            if progress is not None:
                progress(f"{name} {what}", done, total)

    def pass_over() -> tuple[Share, Share]:
        with _evaluating(model), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
            image_features = _forward(model.encode_image, watched("images", images, len(image_ids)))
            text_features = _forward(model.encode_text, watched("texts", texts, len(text_ids)))
        return (image_ids, image_features), (text_ids, text_features)

    image_parts, text_parts = zip(*_on_all_processes(pass_over, dataset), strict=True)
    image_features, text_features = _by_id(image_parts, len(dataset)), _by_id(text_parts, len(dataset.texts))
    widths = image_features.shape[1], text_features.shape[1]
    if widths[0] != widths[1]:
        raise ModelError(
            f"image features have {widths[0]} dimensions and text features {widths[1]}; they must be equal"
        )
    image_features, near = _checked(image_features, f"dataset {name}: image features", [i.name for i in dataset.images])
    text_features, near_too = _checked(text_features, f"dataset {name}: text features", dataset.texts)
    return Embeddings(dataset, image_features, text_features, time.perf_counter() - start, near + near_too)


@contextmanager
def _evaluating(model: ContrastiveModel) -> Iterator[None]:
    """Hold the model in eval mode; each submodule returns to its own, as frozen towers stay in eval while training."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _forward(encode: Callable[[Tensor], Tensor], batches: Iterator[Tensor]) -> Tensor | None:
    """Return float32 features [n, E] on the CPU; None where this process has no sample."""
    features = [encode(batch).float().cpu() for batch in batches]
    return torch.cat(features) if features else None


class _Images(Dataset):
    """Transformed images by id; a broken one is returned as its message, since a worker's exception loses its type."""

    def __init__(self, dataset: EvalDataset, transform: Transform) -> None:
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.transform(self.dataset.image(index))
        except DataError as error:
            return str(error)


def _collate(items: list[Tensor | str]) -> Tensor | str:
    broken = [item for item in items if isinstance(item, str)]
    return broken[0] if broken else torch.stack([item for item in items if isinstance(item, Tensor)])


def _image_batches(
    dataset: EvalDataset, ids: Sequence[int], transform: Transform, batch_size: int, workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield batches [B, 3, H, W] in the order of `ids`; without a generator the loader would draw from torch's."""
    workers = min(workers, len(ids))
    loader = DataLoader(
        _Images(dataset, transform),
        batch_size=batch_size,
        sampler=ids,
        num_workers=workers,
        multiprocessing_context=Workers() if workers else None,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, str):
            raise DataError(batch)
        yield batch


def _on_all_processes(pass_over: Callable[[], tuple[Share, Share]], dataset: EvalDataset) -> list[tuple[Share, Share]]:
    """Return every process's share; an error on one is raised on all, where the others would wait for it for ever.

    So is a signal that asks one of them to end.
    """
    empty: Share = (range(0), None)
    features: tuple[Share, Share] = (empty, empty)
    failure: Exception | None = None
    signal = 0
    try:
        features = pass_over()
    except Preempted as asked:
        signal = asked.signal
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again below
        failure = error
    message = None if failure is None else str(failure) or repr(failure)
    own = (features, message, isinstance(failure, UserError), dataset.fingerprint(), signal)
    shares = distributed.gather_objects(own)
    if failure is not None:
        raise failure
    if asked_to_end := max(share[4] for share in shares):
        raise Preempted(asked_to_end)
    if len(shares) != distributed.world_size():
        raise RunError(
            f"{distributed.world_size()} processes were launched, but no process group joins them; make it first"
        )
    for rank, (_, message, known, fingerprint, _) in enumerate(shares):
        if message is not None:
            raise DataError(message) if known else RunError(f"evaluation failed on rank {rank}: {message}")
        if fingerprint != shares[0][3]:
            name = dataset.spec.name
            raise DataError(f"dataset {name}: rank {rank} sees other data than rank 0; give all machines the same copy")
    return [share[0] for share in shares]


def _by_id(shares: Sequence[Share], count: int) -> Tensor:
    """Return [count, E], row i of id i."""
    ids = [id_ for share_ids, _ in shares for id_ in share_ids]
    assert sorted(ids) == list(range(count)), "every id must be embedded exactly once"
    rows = torch.cat([features for _, features in shares if features is not None])
    assert len(rows) == count, "one row an id"
    whole = torch.empty_like(rows)
    whole[torch.tensor(ids)] = rows
    return whole


def _checked(features: Tensor, what: str, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the rows at length 1, and a warning if they hardly differ.

    Raises:
        ModelError: rows that are not finite, zero, or all the same. Ranks of such rows mean nothing.
    """
    for problem, good in (("not finite", features.isfinite().all(1)), ("zero", features.any(1))):
        bad = (~good).nonzero().flatten().tolist()
        if bad:
            raise ModelError(
                f"{what} of {len(bad)} of {len(features)} rows are {problem}, the first of {names[bad[0]]!r}; "
                "the model has diverged or is damaged: take an earlier checkpoint, or lower the learning rate"
            )
    features = nn.functional.normalize(features, dim=1)
    spread = float(1 - features.double().mean(0).square().sum())
    if len(features) > 1 and spread < COLLAPSED:
        raise ModelError(
            f"{what}: all {len(features)} rows are the same (1 - mean cosine = {spread:.1e}); "
            "the model has collapsed: train it, or take an earlier checkpoint"
        )
    near = f"{what} hardly differ: mean cosine {1 - spread:.4f}"
    return features, (near,) if len(features) > 1 and spread < NEARLY_COLLAPSED else ()
