"""The one embedding pass that all tasks of a dataset read.

Samples are shared by index over the processes and gathered by id, so the result depends neither on their number nor on
batch size nor workers. N images, M texts, E embed_dim.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import PIL
import torch
from torch import Tensor, nn

from contrastive import distributed
from contrastive.errors import ModelError, RunError
from contrastive.eval.batches import Batch, image_batches, probe, text_batches
from contrastive.eval.batches import Tokenizer as Tokenizer
from contrastive.eval.batches import Transform as Transform
from contrastive.eval.cache import EmbeddingCache, Entry, Rows
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.sharing import Computed, spread
from contrastive.eval.soundness import checked, logits, readable

Precision = Literal["fp32", "bf16"]
Progress = Callable[[str, int, int], None]  # what ("digits images"), done, total; of this process's share


class ContrastiveModel(Protocol):
    """What evaluation needs of a model: an nn.Module (for eval() and its restoring) with two encoders.

    Where it has them, `logit_scale` (in log space) and `logit_bias` are read too, and `reads_padding`: where that is
    False, texts come cut behind the longest of the batch.
    """

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
    """L2-normalised float32 features on the CPU; row i is image i or text id i of `dataset`.

    `logit_scale` is the trained multiplier of cosines, exp(model.logit_scale), `logit_bias` what is added to them; None
    where the model has none. `unreadable` are the names of images that were left out; `dataset` is without them.
    `train` and `val` are the splits that probes learn from; their texts are not embedded. `computed` rows did not come
    from a cache.
    """

    dataset: EvalDataset
    image_features: Tensor  # [N, E]
    text_features: Tensor  # [M, E]
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    logit_scale: float | None = None
    logit_bias: float | None = None
    unreadable: tuple[str, ...] = ()
    train: "Embeddings | None" = None
    val: "Embeddings | None" = None
    computed: int = 0


@dataclass(frozen=True)
class Pass:
    """How an embedding pass is done.

    `workers` are processes of this rank that decode images; 0 decodes in this one, by threads. `precision` is the
    forward's alone; what follows it is float32. `progress` is told after each batch, and may raise Preempted. `cache`
    keeps features, also those of a pass that was killed, for the next pass with this model and data.
    """

    device: torch.device | str = "cpu"
    batch_size: int = 64
    workers: int = 0
    precision: Precision = "fp32"
    progress: Progress | None = None
    cache: EmbeddingCache | None = None


def embed(
    model: ContrastiveModel,
    transform: Transform,
    tokenizer: Tokenizer,
    dataset: EvalDataset,
    how: Pass = Pass(),
) -> Embeddings:
    """Embed every image and text of `dataset` once, on all processes together; every process returns the whole.

    The model is put into eval mode and back; no random number generator moves.

    `model` is on the pass's device, unwrapped (no DDP).

    Raises:
        DataError: more images cannot be read than `max_unreadable` allows, or processes see different copies.
        MeaninglessError: features are not finite, are zero, or are all the same.
        RunError: another process failed.
        Preempted: a process was asked to end.
    """
    if distributed.world_size() > 1 and not distributed.is_initialized():
        raise RunError(
            f"{distributed.world_size()} processes were launched, but no process group joins them; make it first"
        )
    start = time.perf_counter()
    scale, bias = logits(model)
    encoders = _Encoders(model, transform, tokenizer, how)
    with evaluating(model):
        images = encoders.images(dataset, "images")
        texts = encoders.texts(dataset)
        train, val = (
            None if split is None else encoders.images(split, f"{name} images")
            for name, split in (("training", dataset.train), ("validation", dataset.val))
        )
    widths = images.image_features.shape[1], texts.features.shape[1]
    if len(dataset.texts) and widths[0] != widths[1]:
        rule = "they must be equal"
        raise ModelError(
            f"image features have {widths[0]} dimensions and text features {widths[1]}; {rule}"
        ).everywhere()
    return Embeddings(
        dataset=images.dataset,
        image_features=images.image_features,
        text_features=texts.features,
        seconds=time.perf_counter() - start,
        warnings=images.warnings + texts.warnings,
        logit_scale=scale,
        logit_bias=bias,
        unreadable=images.unreadable,
        train=train,
        val=val,
        computed=images.computed + texts.computed,
    )


@contextmanager
def evaluating(model: ContrastiveModel) -> Iterator[None]:
    """Hold the model in eval mode; each submodule returns to its own, as frozen towers stay in eval while training."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class _Texts:
    features: Tensor  # [M, E]
    warnings: tuple[str, ...]
    computed: int


@dataclass(frozen=True)
class _Encoders:
    """A model with its inputs' transforms, and how it is used."""

    model: ContrastiveModel
    transform: Transform
    tokenizer: Tokenizer
    how: Pass

    def images(self, dataset: EvalDataset, what: str) -> Embeddings:
        """Return the features of a split's images alone."""
        start, name = time.perf_counter(), f"dataset {dataset.spec.name}"
        allowed = math.floor(dataset.spec.max_unreadable * len(dataset) + 1e-9)
        device = torch.device(self.how.device)

        def batches(ids: list[int]) -> Iterator[Batch]:
            return image_batches(dataset.images, ids, self.transform, self.how.batch_size, self.how.workers, device)

        rows, broken, computed = self._run(
            dataset,
            what,
            len(dataset),
            content=lambda: [
                [(image.name, image.stamp) for image in dataset.images],
                probe(dataset.images),
                PIL.__version__,
            ],
            compute=lambda ids, entry: self._computed(
                batches(ids), self.model.encode_image, f"{dataset.spec.name} {what}", len(ids), entry, allowed
            ),
        )
        kept, notes = readable(dataset, broken, len(rows.ids) + len(broken))
        features, near = checked(rows.features, f"{name}: image features", [image.name for image in kept.images])
        return Embeddings(
            dataset=kept,
            image_features=features,
            text_features=torch.empty(0, features.shape[1]),
            seconds=time.perf_counter() - start,
            warnings=notes + near,
            unreadable=tuple(dataset.images[index].name for index in broken),
            computed=computed,
        )

    def texts(self, dataset: EvalDataset) -> _Texts:
        """Return the features of all texts."""
        reads_padding = getattr(self.model, "reads_padding", True)
        pad_id = None if reads_padding else getattr(self.tokenizer, "pad_id", None)
        rows, _, computed = self._run(
            dataset,
            "texts",
            len(dataset.texts),
            content=lambda: dataset.texts,
            compute=lambda ids, entry: self._computed(
                text_batches(dataset.texts, ids, self.tokenizer, self.how.batch_size, pad_id),
                self.model.encode_text,
                f"{dataset.spec.name} texts",
                len(ids),
                entry,
            ),
        )
        return _Texts(*checked(rows.features, f"dataset {dataset.spec.name}: text features", dataset.texts), computed)

    def _run(
        self,
        dataset: EvalDataset,
        what: str,
        count: int,
        content: Callable[[], Any],
        compute: Callable[[list[int], Entry | None], Computed],
    ) -> tuple[Rows, dict[int, str], int]:
        """Return the rows of `count` ids, what is broken, and how many were computed; see `spread`."""
        device, kept = torch.device(self.how.device), self.how.cache

        @cache
        def entry() -> Entry | None:
            if kept is None or count == 0:
                return None
            about = {"dataset": dataset.spec.name, "what": what, "of": count, "precision": self.how.precision}
            return kept.entry([self.how.precision, device.type, torch.__version__, content()], about)

        def held() -> tuple[Rows, str]:
            found = entry()
            return Rows.joined([]) if found is None else found.read(), dataset.fingerprint()

        rows, broken, computed = spread(
            f"dataset {dataset.spec.name}", count, held, lambda ids: compute(ids, entry()), device
        )
        found = entry()
        if found is not None and len(rows.ids) + len(broken) == count:
            found.finish(rows if distributed.rank() == 0 else None)
        return rows, broken, computed

    def _computed(
        self,
        batches: Iterable[Batch],
        encode: Callable[[Tensor], Tensor],
        what: str,
        total: int,
        entry: Entry | None,
        allowed: int = 0,
    ) -> Computed:
        """Return the features of this process's share; it ends early where more than `allowed` ids are broken."""
        device = torch.device(self.how.device)
        parts: list[Rows] = []
        broken: dict[int, str] = {}
        done = 0
        try:
            # Not inference_mode: what a module keeps from it (rotary tables) could not be trained with afterwards.
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, self.how.precision == "bf16"):
                for batch in batches:
                    if batch.inputs is not None:
                        features = encode(batch.inputs.to(device, non_blocking=True)).float().cpu()
                        parts.append(Rows(batch.ids, features))
                        if entry is not None:
                            entry.add(*parts[-1])
                    broken |= batch.broken
                    done += len(batch)
                    if self.how.progress is not None:
                        self.how.progress(what, done, total)
                    if len(broken) > allowed:
                        break
        finally:
            if entry is not None:
                entry.flush()
        return Computed(Rows.joined(parts), broken)
