"""Global batches, cut over processes: the same samples in the same rows, whatever the processes and workers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contrastive.data.order import sample_at
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.hashing import bytes_hash, mix, row_hash
from contrastive.modalities.image import TrainTransform
from contrastive.modalities.text import Tokenizer

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """What decides the batches: global batch `step` holds positions step * B to (step + 1) * B - 1 of the order."""

    global_batch_size: int
    seed: int
    rank: int
    world_size: int

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return this rank's positions in global batch `step`, int64 [b]; ranks hold consecutive slices of it."""
        share = self.global_batch_size // self.world_size
        start = step * self.global_batch_size + self.rank * share
        return np.arange(start, start + share, dtype=np.int64)


class RankBatches(Dataset[Batch]):
    """Item `step` is this rank's batch of global step `step`: a pure function, so workers may share the steps.

    A teacher whose ids, or whose way with padding, are not the student's has captions of its own: `teacher_text`.
    """

    def __init__(
        self,
        reader: Reader,
        transform: TrainTransform,
        tokenizer: Tokenizer,
        plan: Plan,
        *,
        cut_text: bool = False,
        teacher_tokenizer: Tokenizer | None = None,
        cut_teacher_text: bool = False,
    ) -> None:
        self.reader, self.transform, self.tokenizer, self.plan = reader, transform, tokenizer, plan
        self.cut_text, self.cut_teacher_text = cut_text, cut_teacher_text
        self.teacher_tokenizer = teacher_tokenizer
        # Two names may stand for the same ids, but only equal specs are sure to.
        if teacher_tokenizer and (teacher_tokenizer.spec, cut_teacher_text) == (tokenizer.spec, cut_text):
            self.teacher_tokenizer = None

    def __getitem__(self, step: int) -> Batch:
        """Return `image` uint8 [b, 3, H, W], `text` int64 [b, L], and int64 [b]: `seed`, `index` and what is equal.

        Images are channels last in memory. Equal captions (after tokenizing) share a `caption_id`, images of equal
        bytes an `image_id`, and with `data.label_key` equal labels a `label_id`.

        `seed` is a hash of (run seed, epoch, sample): every random choice about a sample comes from it. A teacher that
        does not share `text` has `teacher_text` int64 [b, L_t].
        """
        positions = self.plan.positions(step)
        count = len(self.reader.samples)
        numbers = sample_at(positions, count, self.plan.seed)
        seeds = mix("sample", self.plan.seed, positions // count, numbers)  # [b]
        draws = np.stack([mix("loader", seeds, i) for i in range(5)], axis=1) / 2.0**64  # [b, 5]
        size = self.transform.preprocess.size
        image = torch.empty(len(numbers), size, size, 3, dtype=torch.uint8)
        captions, image_ids = [], []
        for row, number in enumerate(numbers.tolist()):
            encoded = self.reader.image(number)
            try:
                image[row] = self.transform(encoded, draws[row, :4]).permute(1, 2, 0)
            except ValueError as error:
                raise DataError(f"{self.reader.where(number)}: its image {error}") from error
            image_ids.append(bytes_hash(encoded))
            captions.append(self.reader.caption(number, float(draws[row, 4])))
        text = self.tokenizer(captions)
        caption_id = row_hash(text)  # of the whole rows: another rank may cut the same caption elsewhere
        if self.cut_text:
            text = cut_padding(text, self.tokenizer.pad_id)
        batch = {
            "image": image.permute(0, 3, 1, 2),
            "text": text,
            "caption_id": caption_id,
            "image_id": torch.tensor(image_ids),
            "seed": torch.from_numpy(seeds.view(np.int64)),
            "index": torch.from_numpy(numbers),
        }
        if self.teacher_tokenizer is not None:
            ids = self.teacher_tokenizer(captions)
            batch["teacher_text"] = cut_padding(ids, self.teacher_tokenizer.pad_id) if self.cut_teacher_text else ids
        if self.reader.samples.label is not None:
            labels = [self.reader.label(number) for number in numbers.tolist()]
            batch["label_id"] = torch.tensor([bytes_hash(label.encode(errors="surrogatepass")) for label in labels])
        return batch


def cut_padding(text: Tensor, pad_id: int, multiple: int = 8) -> Tensor:
    """Return token ids [B, L] without the columns in which every caption is padding, but for a multiple of `multiple`.

    A text tower of context 77 spends most of its time on padding; few distinct lengths keep kernels and compilers warm.
    """
    used = int((text != pad_id).any(dim=0).nonzero().max()) + 1 if (text != pad_id).any() else 1
    return text[:, : -(-used // multiple) * multiple].contiguous()


def batches(dataset: RankBatches, first_step: int, last_step: int, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Yield this rank's batches of steps first_step to last_step - 1, in order, read ahead by `workers` processes.

    Raises:
        DataError: a sample cannot be read; the message names shard and key.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        sampler=range(first_step, last_step),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
        # Workers draw nothing at random; an own generator keeps iter() from touching the global one.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except DataError as error:
        # torch hands a worker's error over as a traceback; its last line is what the user needs.
        last_line = str(error).rstrip().splitlines()[-1]
        raise DataError(last_line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")) from None


def _one_thread(worker: int) -> None:  # noqa: ARG001  (the signature is torch's)
    torch.set_num_threads(1)
