"""What the encoders are fed: ids to batches of images or of token ids.

B batch, L token ids of a text, H and W of an image.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contrastive.data.loader import cut_padding
from contrastive.errors import DataError
from contrastive.eval.samples import ImageSource
from contrastive.processes import Workers

Transform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]
CPU = torch.device("cpu")

PROBED = 8  # images whose pixels stand for all: names, sizes and offsets alone may be those of other images
AHEAD = 2  # batches that are read while an accelerator works
MOST_THREADS = 8  # that read: with more they wait for the interpreter; processes do not
SORTED_TEXTS = 1 << 15  # texts that are ordered together: 20 MB of token ids at 77 a text


class Batch(NamedTuple):
    """Inputs by id, and what is wrong with the ids that have none. `inputs` is None where all are broken."""

    ids: Tensor  # int64 [B]
    inputs: Tensor | None  # [B, ...]
    broken: dict[int, str]

    def __len__(self) -> int:
        return len(self.ids) + len(self.broken)


def image_batches(
    images: Sequence[ImageSource],
    ids: Sequence[int],
    transform: Transform,
    batch_size: int,
    workers: int = 0,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yield images [B, 3, H, W] in the order of `ids`, decoded by `workers` processes; 0: by threads of this one."""
    workers = min(workers, -(-len(ids) // batch_size))
    read = _Images(images, transform)
    if not workers:
        yield from _by_threads(read, ids, batch_size, ahead=1 if device.type == "cpu" else AHEAD)
        return
    loader = DataLoader(
        read,
        batch_size=batch_size,
        sampler=ids,
        num_workers=workers,
        multiprocessing_context=Workers(),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # without one, the loader would draw from torch's
    )
    for ids_, inputs, broken in loader:
        yield Batch(ids_, inputs, broken)


def _by_threads(read: "_Images", ids: Sequence[int], batch_size: int, ahead: int) -> Iterator[Batch]:
    """Yield batches that threads have read while the consumer works on those before, `ahead` of them.

    Pillow lets go of the interpreter while it decodes and resizes. Where the model runs on the same cores, one batch is
    read ahead: it fills the moments in which a forward leaves a core idle.
    """
    pool = ThreadPoolExecutor(min(torch.get_num_threads(), MOST_THREADS), thread_name_prefix="eval images")
    waiting: deque[list[Future[tuple[int, Tensor | str]]]] = deque()
    try:
        for at in range(0, len(ids), batch_size):
            waiting.append([pool.submit(read.__getitem__, index) for index in ids[at : at + batch_size]])
            if len(waiting) > ahead:
                yield Batch(*_collate([item.result() for item in waiting.popleft()]))
        for items in waiting:
            yield Batch(*_collate([item.result() for item in items]))
    finally:
        pool.shutdown(cancel_futures=True)


def text_batches(
    texts: Sequence[str], ids: Sequence[int], tokenizer: Tokenizer, batch_size: int, pad_id: int | None = None
) -> Iterator[Batch]:
    """Yield token ids [B, L]; texts of like length together, long ones first, cut behind the longest of the batch.

    `pad_id` None: the model reads padding, so that nothing is cut.
    """
    for start in range(0, len(ids), SORTED_TEXTS):
        block = ids[start : start + SORTED_TEXTS]
        pieces = [block[at : at + batch_size] for at in range(0, len(block), batch_size)]
        if pad_id is None:
            for piece in pieces:
                yield Batch(torch.tensor(piece), tokenizer([texts[index] for index in piece]), {})
            continue
        tokens = torch.cat([tokenizer([texts[index] for index in piece]) for piece in pieces])
        ends = ((tokens != pad_id) * torch.arange(1, tokens.shape[1] + 1)).amax(1)
        for rows in ends.argsort(descending=True, stable=True).split(batch_size):
            yield Batch(torch.tensor(block)[rows], cut_padding(tokens[rows], pad_id), {})


def probe(images: Sequence[ImageSource]) -> str:
    """Return a digest of the pixels of a few images, spread over all."""
    digest = hashlib.sha256()
    for index in range(0, len(images), max(1, len(images) // PROBED)):
        try:
            image = images[index].decode()
        except DataError:
            continue  # the pass counts and names it
        digest.update(f"{image.mode} {image.size}".encode() + image.tobytes())
    return digest.hexdigest()


class _Images(Dataset[tuple[int, Tensor | str]]):
    """Transformed images by id; a broken one is returned as its message, since a worker's exception loses its type."""

    def __init__(self, images: Sequence[ImageSource], transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.transform(self.images[index].decode())
        except DataError as error:
            return index, str(error)
        except (OSError, ValueError) as error:  # of a kind that the transform cannot take
            return index, f"{self.images[index].name}: the image cannot be transformed ({error}); replace it"


def _collate(items: list[tuple[int, Tensor | str]]) -> tuple[Tensor, Tensor | None, dict[int, str]]:
    whole = [(index, item) for index, item in items if isinstance(item, Tensor)]
    broken = {index: item for index, item in items if isinstance(item, str)}
    inputs = torch.stack([item for _, item in whole]) if whole else None
    return torch.tensor([index for index, _ in whole], dtype=torch.int64), inputs, broken
