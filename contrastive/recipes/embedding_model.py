"""Chunks of samples through a model: features of images and captions, and how well they fit.

CLIP score: the cosine of an image's and its caption's features (Hessel et al. 2021, "CLIPScore", section 3, without
its factor; the filter of Schuhmann et al. 2021, "LAION-400M", section 3).
n samples of a chunk, k captions, L token ids, E embed_dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contrastive.data.loader import cut_padding
from contrastive.errors import MeaninglessError, ModelError
from contrastive.models.checkpoint import Loaded
from contrastive.recipes.embedding import Chunk
from contrastive.recipes.embedding_samples import Batch

Precision = Literal["fp32", "bf16"]
MOST_CAPTIONS = 16_384  # whose token ids and features are held at a time
NOT_FINITE = "features: not finite"
PROBE = Image.new("RGB", (64, 64), (128, 96, 64)), "a picture"


@dataclass(frozen=True)
class Embedder:
    """A model in evaluation mode and how it is used.

    With one batch size the features are the same bits whoever computes them; another one moves them by the rounding of
    the sums in the model (about 1e-6 in fp32).
    """

    loaded: Loaded
    device: torch.device
    batch_size: int = 256
    precision: Precision = "fp32"

    def width(self) -> int:
        """Return embed_dim, as a picture and a text show it.

        Raises:
            ModelError: the two have different widths.
            MeaninglessError: a feature is not finite.
        """
        image = self._encode(self.loaded.model.encode_image, self.loaded.transform(PROBE[0])[None])
        text = self._encode(self.loaded.model.encode_text, self.loaded.tokenizer([PROBE[1]]))
        if image.shape[1] != text.shape[1]:
            said = f"image features have {image.shape[1]} dimensions and text features {text.shape[1]}"
            raise ModelError(f"{said}; they must be equal: give a model whose towers share a space")
        if not (image.isfinite().all() and text.isfinite().all()):
            rule = "the model has diverged or is damaged: take an earlier checkpoint"
            raise MeaninglessError(f"features of a plain picture and a plain text are not finite, or zero; {rule}")
        return int(image.shape[1])

    def chunk(self, span: range, width: int, batches: Iterator[Batch], beat: Callable[[int], None]) -> Chunk:
        """Return what becomes of the samples of `span`, which the next batches hold; `beat` is told of each batch."""
        held = _Held(len(span), width)
        while len(held.reasons) < len(span):
            batch = next(batches)
            assert batch.start == span.start + len(held.reasons), "batches come in order, and end with the chunk"
            self._take(held, batch)
            beat(len(batch.reasons))
            if held.waiting >= MOST_CAPTIONS:
                self._score(held)
        self._score(held)
        return held.finished()

    def _take(self, held: "_Held", batch: Batch) -> None:
        before = len(held.reasons)
        held.reasons.extend(batch.reasons)
        if batch.images is not None:
            features = self._encode(self.loaded.model.encode_image, batch.images)
            held.encoded.append((before + batch.rows.numpy(), features))
        if batch.tokens is not None:
            held.owners.append(before + batch.owners.numpy())
            held.tokens.append(batch.tokens)

    def _score(self, held: "_Held") -> None:
        """Embed the captions that wait, and keep of each sample's the one that fits best."""
        for rows, features in held.encoded:
            held.image[rows] = features.cpu().numpy()
        held.encoded = []
        if not held.tokens:
            return
        owners, tokens = np.concatenate(held.owners), torch.cat(held.tokens)
        held.owners, held.tokens = [], []
        text = self._texts(tokens)
        cosines = np.einsum("ke,ke->k", held.image[owners], text)
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))  # each sample's first caption
        best = np.lexsort((-cosines, owners))[firsts]  # stable: of equal ones the first
        whose, counts = owners[firsts], np.diff(firsts, append=len(owners))
        held.text[whose] = text[best]
        held.best[whose] = best - firsts
        held.scores[whose, 0] = cosines[best]
        held.scores[whose, 1] = np.add.reduceat(cosines.astype(np.float64), firsts) / counts

    def _texts(self, tokens: Tensor) -> NDArray[np.float32]:
        """Return the features of captions, float32 [k, E]; long ones first, cut behind the longest of the batch."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        pad_id = None if model.reads_padding else getattr(tokenizer, "pad_id", None)
        order = torch.arange(len(tokens))
        if pad_id is not None:
            ends = ((tokens != pad_id) * torch.arange(1, tokens.shape[1] + 1)).amax(1)
            order = ends.argsort(descending=True, stable=True)
        pieces = (tokens[rows] for rows in order.split(self.batch_size))
        cut = (piece if pad_id is None else cut_padding(piece, pad_id) for piece in pieces)
        sorted_features = torch.cat([self._encode(model.encode_text, piece) for piece in cut]).cpu().numpy()
        found: NDArray[np.float32] = np.empty_like(sorted_features)
        found[order.numpy()] = sorted_features
        return found

    def _encode(self, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return features of length 1, float32 [n, E]; of a zero NaN."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
            features = encode(inputs.to(self.device, non_blocking=True)).float()
            unit: Tensor = features / features.norm(dim=1, keepdim=True)
            return unit


class _Held:
    """A chunk that is being made, and what waits: image features on the device, captions that are not embedded yet."""

    def __init__(self, count: int, width: int) -> None:
        self.image = np.full((count, width), np.nan, np.float32)
        self.text = np.full((count, width), np.nan, np.float32)
        self.scores = np.full((count, 2), np.nan, np.float32)
        self.best = np.full(count, -1, np.int32)
        self.reasons: list[str] = []
        self.encoded: list[tuple[NDArray[np.int64], Tensor]] = []  # whose, and the features
        self.owners: list[NDArray[np.int64]] = []
        self.tokens: list[Tensor] = []

    @property
    def waiting(self) -> int:
        """How many captions wait."""
        return sum(map(len, self.tokens))

    def finished(self) -> Chunk:
        """Return the chunk; what has no finite score gets a reason, if it has none."""
        scored: list[bool] = np.isfinite(self.scores.sum(axis=1)).tolist()
        reasons = tuple(
            reason or ("" if is_scored else NOT_FINITE) for reason, is_scored in zip(self.reasons, scored, strict=True)
        )
        return Chunk(self.image, self.text, self.scores, self.best, reasons)
