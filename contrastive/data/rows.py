"""Rows of a batch: a pure function of (plan, step, piece), so workers and ranks may share the work as they like."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from contrastive.data.order import Draws, Order
from contrastive.data.pool import Found
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.hashing import bytes_hash, mix, row_hash
from contrastive.modalities.decode import BadImageError
from contrastive.modalities.image import CROP_DRAWS, TrainTransform
from contrastive.modalities.text import Tokenizer

Batch = dict[str, Tensor]
TRIES = 20  # substitutes that may themselves be unusable, before the shards are called so
NO_MEMORY = "no memory to read and decode it in; give the job more, or take fewer data.workers"
DRAWS = CROP_DRAWS + 1  # random numbers of a sample on the host: those of the crop, and one of the caption


@dataclass(frozen=True)
class Plan:
    """What decides the batches: step t holds positions consumed + t * B to consumed + (t + 1) * B - 1 of the order."""

    order: Order
    seed: int
    global_batch_size: int
    rank: int = 0
    world_size: int = 1
    consumed: int = 0  # positions that earlier launches have taken, in whatever batches

    @property
    def share(self) -> int:
        """Rows of this rank in a global batch."""
        return self.global_batch_size // self.world_size

    def draws(self, step: int) -> Draws:
        """Return which samples this rank takes in `step`, fields [b]; ranks hold consecutive rows of one batch."""
        whole = self.order.batch(self.consumed + step * self.global_batch_size, self.global_batch_size)
        own = slice(self.rank * self.share, (self.rank + 1) * self.share)
        return Draws(*(part[own] for part in whole))


class Replaced(NamedTuple):
    """A sample that could not be used, and what stood in for it."""

    location: str
    key: str
    row: int
    offset: int
    reason: str
    message: str
    substitute: int


class Piece(NamedTuple):
    """Consecutive rows of a rank's batch."""

    batch: Batch
    replaced: list[Replaced]


@dataclass
class _Rows:
    """What has been gathered of the rows of a piece."""

    captions: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)


class RankRows(Dataset[Piece]):
    """Item (step, piece) holds rows of this rank's batch of `step`, which is cut into `pieces`.

    A sample that cannot be used is replaced by another of its source, a pure function of (seed, occurrence, sample).
    Without `image_ids` nobody asks which images are equal, and their bytes are not hashed.
    """

    def __init__(
        self,
        reader: Reader,
        transform: TrainTransform,
        tokenizer: Tokenizer,
        plan: Plan,
        *,
        pieces: int = 1,
        teacher_tokenizer: Tokenizer | None = None,
        image_ids: bool = True,
    ) -> None:
        self.reader, self.transform, self.tokenizer, self.plan = reader, transform, tokenizer, plan
        self.pieces, self.teacher_tokenizer, self.image_ids = pieces, teacher_tokenizer, image_ids
        self.canvas: Tensor | None = None  # uint8 [slots, share, size, size, 3]; step t's images go into slot t % slots
        self._drawn: dict[int, Draws] = {}  # of the last two steps

    def bounds(self, piece: int) -> slice:
        """Return which rows of the rank's batch a piece holds."""
        return slice(self.plan.share * piece // self.pieces, self.plan.share * (piece + 1) // self.pieces)

    def draws(self, step: int, piece: int) -> Draws:
        """Return which samples a piece holds."""
        if step not in self._drawn:  # a global batch of 32,768 takes milliseconds, and is asked for again and again
            self._drawn = {step: self.plan.draws(step), **dict(list(self._drawn.items())[:1])}
        return Draws(*(part[self.bounds(piece)] for part in self._drawn[step]))

    def __getitem__(self, item: tuple[int, int]) -> Piece:
        """Return `image` uint8 [n, 3, H, W], `text` int64 [n, L], and int64 [n]: `seed`, `index` and what is equal.

        Images are channels last in memory. Equal captions (after tokenizing) share a `caption_id`, images of equal
        bytes an `image_id` where these are asked for, and with a label_key equal labels a `label_id`. `index` is the
        sample's number, that of the substitute where one stands in; `source` is there in a mixture.

        `seed` is a hash of (run seed, occurrence, sample): every random choice about a sample comes from it. A teacher
        that does not share `text` has `teacher_text` int64 [n, L_t].
        """
        draws = self.draws(*item)
        if self.reader.is_remote:
            self.reader.prefetch(draws.number.tolist())
            self.reader.prefetch(self.draws(item[0] + 1, item[1]).number.tolist())
        image = self._room(*item)
        seeds = mix("sample", self.plan.seed, draws.occurrence, draws.number)  # [n]
        numbers, rows, uniforms = draws.number.copy(), _Rows(), _uniforms(seeds)
        for row, out in enumerate(image):
            found = self.reader.pool.find(int(numbers[row]))
            try:
                self._fill(found, out, uniforms[row], rows)
            except MemoryError as error:
                raise DataError(f"{found.where}: {NO_MEMORY}") from error
            except BadSampleError as error:
                numbers[row], seeds[row] = self._stand_in(found, error, out, draws, row, rows)
        batch = {
            "image": image.permute(0, 3, 1, 2),
            **self._texts(rows.captions),
            "seed": torch.from_numpy(seeds.view(np.int64)),
            "index": torch.from_numpy(numbers),
        }
        if self.image_ids:
            batch["image_id"] = torch.tensor(rows.image_ids, dtype=torch.int64)
        if self.reader.has_labels:
            batch["label_id"] = torch.tensor(rows.label_ids, dtype=torch.int64)
        if len(self.reader.pool.specs) > 1:
            batch["source"] = torch.from_numpy(draws.source)
        return Piece(batch, rows.replaced)

    def _room(self, step: int, piece: int) -> Tensor:
        """Return where a piece's images go, uint8 [n, size, size, 3]."""
        rows, size = self.bounds(piece), self.transform.preprocess.size
        if self.canvas is None:
            return torch.empty(rows.stop - rows.start, size, size, 3, dtype=torch.uint8)
        return self.canvas[step % len(self.canvas), rows]

    def _texts(self, captions: list[str]) -> Batch:
        text = self.tokenizer(captions)
        found = {"text": text, "caption_id": row_hash(text)}
        if self.teacher_tokenizer is not None:
            found["teacher_text"] = self.teacher_tokenizer(captions)
        return found

    def _stand_in(
        self, found: Found, error: BadSampleError, out: Tensor, draws: Draws, row: int, rows: _Rows
    ) -> tuple[int, np.uint64]:
        """Fill a row whose sample cannot be used; return which sample stands in, and its seed."""
        planned, occurrence = int(draws.number[row]), int(draws.occurrence[row])
        failures = [(found, error)]
        for attempt in range(1, TRIES):
            number = self._substitute(planned, occurrence, attempt)
            seed = mix("substitute", self.plan.seed, occurrence, planned, attempt)
            found = self.reader.pool.find(number)
            try:
                self._fill(found, out, _uniforms(seed[None])[0], rows)
            except BadSampleError as again:
                failures.append((found, again))
            else:
                rows.replaced += [record(bad, why, number) for bad, why in failures]
                return number, np.uint64(seed)
        raise DataError(f"{error}; so are {TRIES - 1} others in its place: see contrastive data verify")

    def _fill(self, found: Found, out: Tensor, uniforms: NDArray[np.float64], rows: _Rows) -> None:
        watch = self.reader.storage.watch
        encoded = self.reader.image(found)
        caption = self.reader.caption(found, float(uniforms[-1]))
        label = self.reader.label(found) if self.reader.has_labels else None
        watch("decode", found.where)
        try:
            self.transform.into(encoded, uniforms[:-1], out)
        except BadImageError as error:
            raise BadSampleError(f"image: {error.reason}", f"{found.where}: its image {error}") from error
        watch("", "")
        rows.captions.append(caption)
        if self.image_ids:
            rows.image_ids.append(bytes_hash(encoded))
        if label is not None:
            rows.label_ids.append(bytes_hash(label.encode(errors="surrogatepass")))

    def _substitute(self, planned: int, occurrence: int, attempt: int) -> int:
        start, count = self.reader.pool.span(planned)
        drawn = start + int(mix("substitute number", self.plan.seed, occurrence, planned, attempt) % np.uint64(count))
        return drawn if drawn != planned else start + (drawn - start + 1) % count


def _uniforms(seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the random numbers of samples on the host, in [0, 1): float64 [n, DRAWS]."""
    return mix("loader", seeds[:, None], np.arange(DRAWS)) / 2.0**64


def record(found: Found, error: BadSampleError, substitute: int) -> Replaced:
    """Return what is written down about a sample that cannot be used; `substitute` is the number that stands in."""
    member = next(name for name in found.source.image if name in found.row.members)
    offset = found.row.members[member][0]
    return Replaced(found.location, found.row.key, found.row.row, offset, error.reason, str(error), substitute)
