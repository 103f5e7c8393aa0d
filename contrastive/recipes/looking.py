"""Every sample of a pool, or some of them, through a function: in order, by several processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.hashing import mix

T = TypeVar("T")
Look = Callable[[Reader, int], T]
SPAN = 256  # samples that a process takes at a time


def over_samples(
    reader: Reader,
    numbers: Sequence[int],
    look: Look[T],
    *,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[T]:
    """Yield look(reader, number) of each sample, in order; with 0 `processes` in this one.

    Raises:
        DataError: a process was killed, or `look` raised it.
    """
    spans = _Spans(reader, numbers, look)
    workers = min(processes, len(spans))
    loader = DataLoader(
        spans,
        batch_size=None,
        collate_fn=_same,
        num_workers=workers,
        generator=torch.Generator(),  # iter() draws a seed; not from the global generator
    )
    done = 0
    try:
        for found in loader:
            yield from found
            done += len(found)
            if progress is not None:
                progress(done, len(numbers))
    except RuntimeError as error:
        raise DataError(f"after {done:,} of {len(numbers):,} samples: {str(error).splitlines()[-1]}") from error


def spread(total: int, most: int | None) -> list[int]:
    """Return at most `most` of `total` numbers, one from each of as many equal parts; None for all of them."""
    if most is None or most >= total:
        return list(range(total))
    edges = np.arange(most + 1) * total // most
    draws = mix("spread", total, np.arange(most)) % np.diff(edges).astype(np.uint64)
    found: list[int] = (edges[:-1] + draws.astype(np.int64)).tolist()
    return found


class _Spans(Dataset[list[T]], Generic[T]):
    def __init__(self, reader: Reader, numbers: Sequence[int], look: Look[T]) -> None:
        self.reader, self.numbers, self.look = reader, np.asarray(numbers, np.int64), look

    def __len__(self) -> int:
        return -(-len(self.numbers) // SPAN)

    def __getitem__(self, span: int) -> list[T]:
        numbers = self.numbers[span * SPAN : (span + 1) * SPAN].tolist()
        if self.reader.is_remote:
            self.reader.prefetch(numbers)
        return [self.look(self.reader, number) for number in numbers]


def _same(found: list[T]) -> list[T]:
    return found
