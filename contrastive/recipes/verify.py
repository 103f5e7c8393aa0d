"""Everything that training would stumble over, found before: each sample is read, decoded and judged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from contrastive.data.rows import Replaced, record
from contrastive.data.stream import BadSampleError, Reader
from contrastive.modalities.decode import BadImageError, decode
from contrastive.recipes.looking import over_samples


@dataclass(frozen=True)
class Limits:
    """What a sample must keep to, besides being readable; None for no limit."""

    min_side: int | None = None  # pixels of the shorter side
    max_aspect: float | None = None  # longer side by shorter
    max_caption_bytes: int | None = None


class Failure(NamedTuple):
    """One kind of failure: how many samples have it, and the first of them."""

    reason: str
    samples: int
    example: Replaced


@dataclass
class Verified:
    """What was found; `bad` holds every sample that fails, in order."""

    checked: int = 0
    bad: list[Replaced] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """The kinds of failure, the most frequent first."""
        kinds: dict[str, list[Replaced]] = {}
        for one in self.bad:
            kinds.setdefault(one.reason, []).append(one)
        found = [Failure(reason, len(these), these[0]) for reason, these in kinds.items()]
        return sorted(found, key=lambda failure: -failure.samples)

    @property
    def shards(self) -> list[tuple[str, int]]:
        """How many samples fail in each shard that has some, the worst first."""
        counts: dict[str, int] = {}
        for one in self.bad:
            counts[one.location] = counts.get(one.location, 0) + 1
        return sorted(counts.items(), key=lambda pair: -pair[1])


def verify(
    reader: Reader,
    numbers: Sequence[int],
    limits: Limits,
    *,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Return which of the samples `numbers` cannot be used, and why.

    The reader should let damaged shards pass (`substitute`), so that one of them does not end the search.

    Raises:
        DataError: a process was killed.
    """
    looks: Iterable[Replaced | None] = over_samples(
        reader, numbers, partial(_look, limits), processes=processes, progress=progress
    )
    found = Verified()
    for bad in looks:
        found.checked += 1
        if bad is not None:
            found.bad.append(bad)
    return found


def _look(limits: Limits, reader: Reader, number: int) -> Replaced | None:
    found = reader.pool.find(number)
    try:
        _judge_image(limits, reader.image(found), found.where)
        caption = reader.caption(found, 0.0)
        length = len(caption.encode(errors="surrogatepass"))
        if limits.max_caption_bytes is not None and length > limits.max_caption_bytes:
            rule = f"its caption has {length:,} bytes, more than {limits.max_caption_bytes:,}"
            raise BadSampleError("caption: too long", f"{found.where}: {rule}")
        if reader.has_labels:
            reader.label(found)
    except BadSampleError as error:
        return record(found, error, -1)
    return None


def _judge_image(limits: Limits, encoded: bytes, where: str) -> None:
    try:
        height, width, _ = decode(encoded).shape
    except BadImageError as error:
        raise BadSampleError(f"image: {error.reason}", f"{where}: its image {error}") from error
    short, long = min(height, width), max(height, width)
    if limits.min_side is not None and short < limits.min_side:
        rule = f"its image has {width} x {height} pixels, less than {limits.min_side} on a side"
        raise BadSampleError("image: too small", f"{where}: {rule}")
    if limits.max_aspect is not None and long > limits.max_aspect * short:
        rule = f"its image has {width} x {height} pixels, more than {limits.max_aspect:g} to 1"
        raise BadSampleError("image: too narrow", f"{where}: {rule}")
