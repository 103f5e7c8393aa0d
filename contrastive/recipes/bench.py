"""How fast one core turns shards into batches, by stage, and what limits."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from contrastive.data.loader import Loader
from contrastive.data.rows import DRAWS, RankRows
from contrastive.data.stream import BadSampleError
from contrastive.errors import DataError
from contrastive.hashing import bytes_hash, mix
from contrastive.modalities.decode import HAS_SIMPLEJPEG, BadImageError

STAGES = ("read", "decode", "crop and resize", "hash", "tokenise")
WAIT = "wait for storage"
MOST_BAD = 1000  # samples that may be unusable before the first one that is not
ADVICE = {
    WAIT: "storage: put the shards on a faster disk, set data.cache for URLs, or give data.workers more processes",
    "read": "reading: large members cost; write images at the size that training needs",
    "decode": "decoding: write images smaller, or set data.decode_scale=true where sources are much larger than crops",
    "crop and resize": "resizing: write images nearer to the size that training needs",
    "hash": "hashing: images are very large for what is kept of them; write them smaller",
    "tokenise": "tokenising: captions are very long, or the tokenizer is slow",
}


@dataclass
class Bench:
    """Seconds by stage of `samples` samples on one core, and what the processes of a loader deliver."""

    samples: int = 0
    bad: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((WAIT, *STAGES), 0.0))
    workers: int = 0
    loader_samples_per_second: float | None = None

    @property
    def per_core(self) -> float:
        """Samples per second that one core can prepare."""
        return self.samples / max(1e-9, sum(self.seconds.values()))

    @property
    def limit(self) -> str:
        """The stage that takes longest."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    @property
    def advice(self) -> str:
        """What limits, and what to do about it."""
        missing = "" if HAS_SIMPLEJPEG or self.limit != "decode" else "; pip install contrastive-pretrain[fast]"
        return ADVICE[self.limit] + missing


def bench(rows: RankRows, seconds: float, workers: int, *, warm_up: int = 8) -> Bench:
    """Time the stages on one thread for about `seconds`, then, for as long again, a loader of `workers` processes.

    `rows` are those of training; the samples are read in its order, from what the operating system holds in memory
    or from the disk, as it comes.

    Raises:
        DataError: shards cannot be read.
    """
    torch.set_num_threads(1)
    found = Bench(workers=workers)
    out = torch.empty(rows.transform.preprocess.size, rows.transform.preprocess.size, 3, dtype=torch.uint8)
    _by_stage(rows, out, Bench(), lambda done: done.samples >= warm_up)
    end = time.monotonic() + seconds
    _by_stage(rows, out, found, lambda done: done.samples > 0 and time.monotonic() >= end)
    if workers:
        found.loader_samples_per_second = _loader(rows, seconds, workers)
    return found


def _by_stage(rows: RankRows, out: torch.Tensor, found: Bench, is_over: Callable[[Bench], bool]) -> None:
    reader, transform = rows.reader, rows.transform
    for step in count():
        draws, captions = rows.draws(step, 0), list[str]()
        seeds = mix("sample", rows.plan.seed, draws.occurrence, draws.number)
        uniforms = mix("loader", seeds[:, None], np.arange(DRAWS)) / 2.0**64
        for number, uniform in zip(draws.number.tolist(), uniforms, strict=True):
            try:
                with _timed(found, "read"):
                    sample = reader.pool.find(number)
                    encoded, caption = reader.image(sample), reader.caption(sample, float(uniform[-1]))
                with _timed(found, "decode"):
                    pixels = transform.decode(encoded, uniform[:-1])
            except (BadSampleError, BadImageError) as error:
                found.bad += 1
                if not found.samples and found.bad >= MOST_BAD:
                    said = error if isinstance(error, BadSampleError) else f"{sample.where}: its image {error}"
                    raise DataError(f"{said}; so are {MOST_BAD - 1:,} others: run contrastive data verify") from error
                continue
            with _timed(found, "crop and resize"):
                transform.write(pixels, uniform[:-1], out)
            if rows.image_ids:
                with _timed(found, "hash"):
                    bytes_hash(encoded)
            captions.append(caption)
            found.samples += 1
            if is_over(found):
                break
        if captions:
            with _timed(found, "tokenise"):
                rows.tokenizer(captions)
        if is_over(found):
            return


@contextmanager
def _timed(found: Bench, stage: str) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        busy = time.thread_time() - processor
        found.seconds[stage] += busy
        if stage == "read":
            found.seconds[WAIT] += max(0.0, time.perf_counter() - clock - busy)


def _loader(rows: RankRows, seconds: float, workers: int) -> float:
    """Return samples per second of the clock, after each worker has delivered once."""
    begin, samples, warm = time.monotonic(), 0, 2
    for batch in Loader(rows, workers=workers).batches(0, 1 << 40):
        if warm:
            warm, begin = warm - 1, time.monotonic()
            continue
        samples += len(batch["index"])
        if time.monotonic() - begin >= seconds:
            break
    return samples / (time.monotonic() - begin)
