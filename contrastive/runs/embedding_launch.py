"""The part of one process in embedding a pool: its chunks, and leaving together with the others."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from contrastive import distributed
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError, Preempted, RunError
from contrastive.eval.sharing import everywhere
from contrastive.models.checkpoint import Weights
from contrastive.recipes.embedding import Chunk, Layout
from contrastive.recipes.embedding_model import Embedder, Precision
from contrastive.recipes.embedding_samples import Reading, batches, spans
from contrastive.runs import machine
from contrastive.runs.lifesigns import LifeSigns
from contrastive.tracking import CountLine
from contrastive.train.signals import StopRequest

STOP, DONE = "stop", "done"
MOST_WORKERS = 8
LOOK_SECONDS, POLL_SECONDS = 10.0, 0.2


@dataclass(frozen=True)
class Request:
    """What is to be embedded and how; see `contrastive data embed --help`. `workers` None: see `_workers`."""

    model: str
    out: Path
    weights: Weights = "trained"
    batch_size: int = 256
    precision: Precision = "fp32"
    workers: int | None = None
    captions: Literal["all", "first"] = "all"
    chunk: int = 4096
    device: str | None = None


class _LeftError(Exception):
    """Another process has failed or was asked to end."""


class Launch:
    """The part of one process; all leave it together, however long the others take, or because one has failed."""

    def __init__(self, signs: LifeSigns) -> None:
        self.signs, self.stop = signs, StopRequest()
        self.name = distributed.from_main(uuid.uuid4().hex)  # one process group may see several launches

    def __enter__(self) -> "Launch":
        self.stop.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.stop.__exit__(*raised)

    def run(self, embedder: Embedder, layout: Layout, reader: Reader, request: Request, own: list[int]) -> None:
        """Embed the chunks of this process, and wait for the others.

        Raises:
            DataError: on some process a chunk cannot be written, or what reads was killed.
            RunError: a process is gone.
            Preempted: a process was asked to end.
        """
        failure: Exception | None = None
        try:
            with _losses_named(request.batch_size):
                self._embed(embedder, layout, reader, request, own)
        except _LeftError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again below, on all ranks
            failure = error
            distributed.tell_everyone(f"{self.name}/{STOP}")
        self._wait()

        def outcome() -> tuple[None, None]:
            if failure is not None:
                raise failure
            return None, None

        everywhere(outcome)

    def _embed(self, embedder: Embedder, layout: Layout, reader: Reader, request: Request, own: list[int]) -> None:
        loaded, device = embedder.loaded, embedder.device
        reading = Reading(reader, loaded.transform, loaded.tokenizer, request.captions)
        wanted = spans(map(layout.span, own), request.batch_size)
        workers = _workers(request.workers, device)
        total = sum(len(layout.span(chunk)) for chunk in own)
        share = "" if distributed.world_size() == 1 else " (share of rank 0)"
        with (
            closing(batches(reading, wanted, workers, pin_memory=device.type == "cuda")) as found,
            CountLine(f"embedding samples{share}", enabled=distributed.rank() == 0) as line,
        ):
            done = 0

            def beat(count: int) -> None:
                nonlocal done
                done += count
                line(done, total)
                self._heed()

            for chunk in own:
                _write(layout, chunk, embedder.chunk(layout.span(chunk), layout.width, found, beat))

    def _heed(self) -> None:
        if self.stop.signal is not None:
            raise Preempted(self.stop.signal)
        if distributed.was_told(f"{self.name}/{STOP}"):
            raise _LeftError

    def _wait(self) -> None:
        """Wait until every rank has come here; no limit, for nobody knows how long the chunks of others take.

        Raises:
            RunError: a rank gives no sign of life any more.
        """
        distributed.tell_everyone(f"{self.name}/{DONE}/{distributed.rank()}")
        looked = time.monotonic()
        for rank in range(distributed.world_size()):
            while distributed.is_initialized() and not distributed.was_told(f"{self.name}/{DONE}/{rank}"):
                time.sleep(POLL_SECONDS)
                if time.monotonic() - looked > LOOK_SECONDS:
                    if lost := self.signs.silent():
                        raise RunError(f"{lost}; the same command goes on from the chunks that are there")
                    looked = time.monotonic()


def _write(layout: Layout, chunk: int, content: Chunk) -> None:
    try:
        layout.write(chunk, content)
    except OSError as error:
        rule = "mend that, and the same command goes on from the chunks that are there"
        raise DataError(f"{layout.folder}: cannot be written ({error.strerror or error}); {rule}") from error


@contextmanager
def _losses_named(batch_size: int) -> Iterator[None]:
    """Say in a line what torch says in a traceback.

    Raises:
        ConfigError: the batch does not fit into the device's memory.
        DataError: a process that reads is gone; torch's handler of SIGCHLD raises it in the middle of something else.
    """
    rule = "the same command goes on from the chunks that are there"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"--batch-size {batch_size}: does not fit into the device's memory; halve it: {rule}"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(f"a process that read samples is gone ({str(error).splitlines()[0]}); {rule}") from error


def _workers(asked: int | None, device: torch.device) -> int:
    """Return how many processes read: none where the model needs the cores itself, else this rank's share of them."""
    if asked is not None or device.type == "cpu":
        return asked or 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(distributed.world_size())))
    return min(MOST_WORKERS, max(1, machine.cores() // here))
