"""Batches in their order, read ahead by processes: each worker takes the same rows of every batch."""

import logging
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from types import FrameType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from contrastive.data.ahead import ahead
from contrastive.data.quarantine import Quarantine
from contrastive.data.rows import Batch, Piece, RankRows
from contrastive.data.watch import Watch
from contrastive.errors import DataError
from contrastive.processes import Workers

log = logging.getLogger("contrastive")
SLOTS = 5  # batches in shared memory: four that workers prepare, and the one that is being read
SHARED = "/dev/shm"  # noqa: S108  (looked at, not written to)


class Loader:
    """Reads a rank's batches with `workers` processes, 0 for this one. `cut_text` leaves out columns of padding.

    A teacher whose ids and whose way with padding are the student's reads the student's `text`. With `pin_memory` a
    thread copies the pieces of the next two batches into page-locked memory.
    """

    def __init__(
        self,
        rows: RankRows,
        *,
        workers: int = 0,
        pin_memory: bool = False,
        cut_text: bool = False,
        cut_teacher_text: bool = False,
        quarantine: Quarantine | None = None,
        timeout_seconds: float = 300.0,
    ) -> None:
        rows.pieces = max(1, min(workers, rows.plan.share))
        self.rows, self.workers, self.pin_memory = rows, min(workers, rows.plan.share), pin_memory
        self.cuts = {"text": cut_text, "teacher_text": cut_teacher_text}
        teacher = rows.teacher_tokenizer
        # Two names may stand for the same ids, but only equal specs are sure to.
        if teacher is not None and (teacher.spec, cut_teacher_text) == (rows.tokenizer.spec, cut_text):
            rows.teacher_tokenizer = None
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.sources = [0] * len(rows.reader.pool.specs)  # samples delivered of each
        self.watch = Watch(rows.pieces, timeout_seconds)
        rows.reader.storage.watch = self.watch
        self._is_waiting = False  # for a piece of the workers

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch, over all sources with their weights."""
        return self.rows.plan.order.epoch_samples

    def counts(self) -> dict[str, int]:
        """Return what this rank has delivered so far: replaced samples and, in a mixture, samples of each source."""
        names = [spec.name for spec in self.rows.reader.pool.specs]
        mixture = dict(zip(names, self.sources, strict=True)) if len(names) > 1 else {}
        return {"replaced": self.quarantine.replaced, **{f"samples/{name}": n for name, n in mixture.items()}}

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield this rank's batches of steps first_step to last_step - 1, in their order.

        Raises:
            DataError: a sample cannot be read, too many had to be replaced, or the readers show no sign of life.
        """
        steps = self._steps(first_step, last_step)
        yield from ahead(steps, 2) if self.pin_memory else steps

    def _steps(self, first_step: int, last_step: int) -> Generator[Batch]:
        canvas = self.rows.canvas = self._canvas() if self.workers else None
        slots = 0 if canvas is None else len(canvas)
        taken = first_step  # the step whose slot of the canvas is to be read next

        def items() -> Iterator[tuple[int, int]]:
            for step in range(first_step, last_step):
                assert not slots or step < taken + slots, "torch reads too far ahead: a batch would be overwritten"
                yield from ((step, piece) for piece in range(self.rows.pieces))

        with closing(self._by_workers(items(), slots - 1) if slots else self._here(items())) as pieces:
            for step in range(first_step, last_step):
                held = [next(pieces) for _ in range(self.rows.pieces)]
                for piece in held:
                    self.quarantine.note(len(piece.batch["index"]), piece.replaced)
                batch = self._joined([piece.batch for piece in held], None if canvas is None else canvas[step % slots])
                taken = step + 1
                for source in range(len(self.sources)):
                    self.sources[source] += int((batch["source"] == source).sum()) if "source" in batch else 0
                yield batch
        self.rows.canvas = None

    def _canvas(self) -> Tensor:
        """Return memory that the workers share, in which each writes its rows of a batch: [slots, share, H, W, 3].

        Raises:
            DataError: there is no room for two batches.
        """
        size, share = self.rows.transform.preprocess.size, self.rows.plan.share
        one, room = share * size * size * 3, _free_shared_memory()
        slots = int(min(SLOTS, room // one))
        if slots < SLOTS:
            rule = "give it more (docker run --shm-size, or a remount), use more ranks, or set data.workers=0"
            said = f"{one / 2**20:,.1f} MiB for each batch of {share}, {room / 2**20:,.1f} MiB are free"
            if slots < 2:
                raise DataError(f"data: the workers need shared memory ({SHARED}): {said}; {rule}")
            log.warning("data: %s: %s; only %d are prepared ahead; %s", SHARED, said, slots - 1, rule)
        storage = torch.UntypedStorage._new_shared(slots * one)  # as torch's default_collate does
        # Zeroed: what a file system of memory promises, it gives only to who writes.
        return torch.empty(0, dtype=torch.uint8).set_(storage).view(slots, share, size, size, 3).zero_()

    def _joined(self, parts: list[Batch], shared: Tensor | None) -> Batch:
        """Return the batch of pieces; `shared` is the slot [B, H, W, 3] that holds their images, else they do."""
        images = [part.pop("image").permute(0, 2, 3, 1) for part in parts] if shared is None else [shared]
        whole = {name: self._concatenated([part[name] for part in parts]) for name in parts[0]}
        whole["image"] = self._concatenated(images, copy=shared is not None).permute(0, 3, 1, 2)
        pads = {"text": self.rows.tokenizer, "teacher_text": self.rows.teacher_tokenizer}
        for name, cuts in self.cuts.items():
            if cuts and name in whole:
                whole[name] = cut_padding(whole[name], pads[name].pad_id)  # type: ignore[union-attr]
        return whole

    def _concatenated(self, parts: list[Tensor], *, copy: bool = False) -> Tensor:
        if len(parts) == 1 and not self.pin_memory and not copy:
            return parts[0]
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        return torch.cat(parts, out=torch.empty(shape, dtype=parts[0].dtype, pin_memory=self.pin_memory))

    def _here(self, items: Iterable[tuple[int, int]]) -> Generator[Piece]:
        for item in items:
            with self.watch.guard():
                piece = self.rows[item]
            yield piece

    def _by_workers(self, items: Iterable[tuple[int, int]], prefetch: int) -> Generator[Piece]:
        workers = Workers()
        loader: DataLoader[Piece] = DataLoader(
            self.rows,
            sampler=items,  # torch asks for integers; whatever the dataset takes will do
            batch_size=None,
            collate_fn=_packed,  # type: ignore[arg-type]  # without batches it gets an item
            num_workers=self.workers,
            prefetch_factor=prefetch,
            worker_init_fn=_begin,
            timeout=self.watch.tick_seconds,
            multiprocessing_context=workers,
            # Workers draw nothing at random; an own generator keeps iter() from touching the global one.
            generator=torch.Generator(),
        )
        pieces = iter(loader)
        with self._deaths_kept():
            try:
                while True:
                    try:
                        yield self._next(pieces, workers)
                    except StopIteration:
                        return
            finally:
                # Now, not when nobody knows the iterator any more: a traceback may know it for long.
                pieces._shutdown_workers()  # type: ignore[attr-defined]

    @contextmanager
    def _deaths_kept(self) -> Iterator[None]:
        """Have a worker's death noticed where its batch is waited for; torch's handler would raise it anywhere."""
        raises = signal.getsignal(signal.SIGCHLD)
        if threading.current_thread() is not threading.main_thread() or not callable(raises):
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self._is_waiting:
                raises(number, frame)

        signal.signal(signal.SIGCHLD, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, raises)

    def _next(self, pieces: Iterator[Piece], workers: Workers) -> Piece:
        waited = 0.0
        while True:
            try:
                self._is_waiting = True
                if workers.deaths():  # since the last piece
                    raise RuntimeError
                return _unpacked(next(pieces))
            except DataError as error:
                # torch hands a worker's error over as a traceback; its last line is what the user needs.
                last_line = str(error).rstrip().splitlines()[-1]
                raise DataError(last_line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: ")) from None
            except MemoryError as error:
                raise DataError(f"data: a worker ran out of memory ({self.watch.standing()}); {_memory()}") from error
            except RuntimeError as error:
                if "timed out" not in str(error):
                    raise DataError(self._failure(error, workers)) from error
                waited += self.watch.tick_seconds
                self.watch.require_life(waited)
            finally:
                self._is_waiting = False

    def _failure(self, error: RuntimeError, workers: Workers) -> str:
        deaths = workers.deaths()
        if not deaths:
            return f"data: {str(error).splitlines()[-1]} ({self.watch.standing()})"
        return f"data: a worker died: {', '.join(deaths)} ({self.watch.standing()}); {_memory()}"


def cut_padding(text: Tensor, pad_id: int, multiple: int = 8) -> Tensor:
    """Return token ids [B, L] without the columns in which every caption is padding, but for a multiple of `multiple`.

    A text tower of context 77 spends most of its time on padding; few distinct lengths keep kernels and compilers warm.
    """
    used = int((text != pad_id).any(dim=0).nonzero().max()) + 1 if (text != pad_id).any() else 1
    return text[:, : -(-used // multiple) * multiple].contiguous()


def _packed(piece: Piece) -> Piece:
    """Return a piece for another process: its images are there, and an array is sent for less than a tensor."""
    arrays = {name: part.numpy() for name, part in piece.batch.items() if name != "image"}
    return piece._replace(batch=arrays)  # type: ignore[arg-type]  # arrays on the way only


def _unpacked(piece: Piece) -> Piece:
    return piece._replace(batch={name: torch.as_tensor(part) for name, part in piece.batch.items()})


def _free_shared_memory() -> float:
    try:
        found = os.statvfs(SHARED)
    except OSError:  # not Linux
        return math.inf
    return found.f_bavail * found.f_frsize


def _memory() -> str:
    """Return what there is to say about memory when a process has died of something."""
    scale = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    here, child = (
        resource.getrusage(who).ru_maxrss / scale for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    held = f"this process held up to {here:.1f} GiB, a worker up to {child:.1f} GiB"
    rule = "was it out of memory? a lower data.workers needs less"
    return f"{held}, {_free_shared_memory() / 2**30:.1f} GiB of {SHARED} are free; {rule}"


def _begin(worker: int) -> None:
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None, "called in a worker"
    info.dataset.reader.storage.watch.reader = worker  # type: ignore[attr-defined]
