"""What a model embeds: samples of a pool, read and decoded in other processes, as pixels and token ids.

b images, k captions and L token ids of a batch.
"""

import contextlib
import io
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contrastive.data.ahead import ahead
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.modalities.decode import ORIENTATION, PILLOW_ERRORS
from contrastive.processes import Workers
from contrastive.recipes.samples import Sample

Captions = Literal["all", "first"]
EXIF = (b"Exif", b"eXIf", b"EXIF")
NO_TRANSFORM = "image: cannot be transformed"


class Batch(NamedTuple):
    """Consecutive samples from number `start`; `reasons` has an entry for each, empty where it is whole."""

    start: int
    reasons: tuple[str, ...]
    rows: Tensor  # int64 [b]: which of the samples has each image
    images: Tensor | None  # [b, 3, H, W]; None where no sample has one
    owners: Tensor  # int64 [k]: which of the samples has each caption, rising
    tokens: Tensor | None  # int64 [k, L]; None where no sample has a caption


@dataclass(frozen=True)
class Reading(Dataset[Batch]):
    """Turns a range of numbers into a batch. A sample without an image gets no captions either."""

    reader: Reader
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    captions: Captions

    def __getitem__(self, span: range) -> Batch:
        if self.reader.is_remote:
            self.reader.prefetch(span)
        found = [self._read(number) for number in span]
        images = [(row, image) for row, (image, _, _) in enumerate(found) if image is not None]
        texts = [(row, text) for row, (_, captions, _) in enumerate(found) for text in captions]
        return Batch(
            span.start,
            tuple(reason for _, _, reason in found),
            torch.tensor([row for row, _ in images], dtype=torch.int64),
            torch.stack([image for _, image in images]) if images else None,
            torch.tensor([row for row, _ in texts], dtype=torch.int64),
            self.tokenizer([text for _, text in texts]) if texts else None,
        )

    def _read(self, number: int) -> tuple[Tensor | None, tuple[str, ...], str]:
        sample = Sample(self.reader, number)
        try:
            image = self.transform(_picture(sample))
        except BadSampleError as error:
            return None, (), error.reason
        except (OSError, ValueError):  # of a kind that the transform cannot take
            return None, (), NO_TRANSFORM
        try:
            captions = sample.captions
        except BadSampleError as error:
            return image, (), error.reason
        return image, captions if self.captions == "all" else captions[:1], ""


def spans(chunks: Iterable[range], batch_size: int) -> Generator[range]:
    """Yield the numbers of each batch. None reaches into two chunks, so that a batch is the same on any process."""
    for chunk in chunks:
        for start in range(chunk.start, chunk.stop, batch_size):
            yield range(start, min(start + batch_size, chunk.stop))


def batches(reading: Reading, wanted: Iterable[range], workers: int, *, pin_memory: bool = False) -> Generator[Batch]:
    """Yield the batches of `wanted` in order, read by `workers` processes; 0: by a thread of this one.

    Raises:
        DataError: a process that reads was killed.
    """
    if not workers:
        yield from ahead((reading[span] for span in wanted), 1)
        return
    context = Workers()
    loader: DataLoader[Batch] = DataLoader(
        reading,
        sampler=wanted,  # torch asks for integers; whatever the dataset takes will do
        batch_size=None,
        collate_fn=_same,  # type: ignore[arg-type]  # without batches it gets an item
        num_workers=workers,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # iter() draws a seed; not from the global generator
    )
    found = iter(loader)
    try:
        yield from found
    except RuntimeError as error:
        said = "; ".join(context.deaths()) or str(error).splitlines()[-1]
        raise DataError(f"a process that read samples is gone ({said}); run the command again: it goes on") from error
    finally:
        # Now, not when nobody knows the iterator any more: a traceback may know it for long.
        found._shutdown_workers()  # type: ignore[attr-defined]


def _picture(sample: Sample) -> Image.Image:
    """Return the image in RGB, with what its EXIF says of how it is turned: some transforms follow that."""
    image = sample.image
    if any(mark in sample.encoded for mark in EXIF):
        with contextlib.suppress(*PILLOW_ERRORS), Image.open(io.BytesIO(sample.encoded)) as header:
            turned = header.getexif().get(ORIENTATION)
            if turned is not None:
                image.getexif()[ORIENTATION] = turned
    return image


def _same(found: Batch) -> Batch:
    return found
