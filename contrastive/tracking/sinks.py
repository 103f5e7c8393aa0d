"""Where records go, and what keeps a place that fails, or is slow, from the training."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger("contrastive")
AGAIN_SECONDS = 60.0
WAITING_RECORDS = 1000
CLOSE_SECONDS = 15.0


class Sink(Protocol):
    """A place that records go to. `open` may be called again after a failure."""

    name: str

    def open(self) -> None:
        """Get ready to write."""

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Write a record: `row` with its kind and step, `numbers` the same, flat, under the names of curves."""

    def close(self) -> None:
        """Write what is still buffered."""


class Guarded:
    """A sink that never raises: what it fails to write is lost, and it is tried again once a minute.

    It warns once a launch, with its name.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._is_open = self._has_warned = False
        self._next_try = -float("inf")

    def open(self) -> None:
        """Open the sink."""
        self._attempt(lambda: None)

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Write a record."""
        self._attempt(lambda: self.sink.write(row, numbers))

    def close(self) -> None:
        """Close the sink."""
        if self._is_open:
            self._attempt(self.sink.close)
        self._is_open, self._next_try = False, float("inf")

    def _attempt(self, work: Callable[[], None]) -> None:
        if not self._is_open and time.monotonic() < self._next_try:
            return
        try:
            if not self._is_open:
                self.sink.open()
                self._is_open = True
            work()
        except Exception as error:  # noqa: BLE001  (other people's code, disks and networks: nothing of it may end a run)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if not self._has_warned:
            rule = f"training goes on, and it is tried again every {AGAIN_SECONDS:.0f} s"
            log.warning("%s: records are lost (%s); %s", self.sink.name, reason, rule)
        if self._is_open:
            with suppress(Exception):
                self.sink.close()
        self._is_open, self._has_warned, self._next_try = False, True, time.monotonic() + AGAIN_SECONDS


class Background:
    """A sink with a thread of its own, so that a slow network holds up nobody. All of its calls come from there."""

    def __init__(self, sink: Guarded) -> None:
        self.name = sink.sink.name
        self._sink, self._has_warned = sink, False
        self._queue: queue.Queue[tuple[Mapping[str, Any], Mapping[str, float]] | None] = queue.Queue(WAITING_RECORDS)
        self._thread = threading.Thread(target=self._run, name=f"tracker {self.name}", daemon=True)

    def open(self) -> None:
        """Start the thread, which opens the sink."""
        self._thread.start()

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Hand a record over."""
        try:
            self._queue.put_nowait((row, numbers))
        except queue.Full:
            if not self._has_warned:
                log.warning("%s: records are lost: %d wait for it already", self.name, WAITING_RECORDS)
            self._has_warned = True

    def close(self) -> None:
        """Wait, but not for long, until everything has been written."""
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("%s: had not taken all records after %.0f s; the end does not wait", self.name, CLOSE_SECONDS)

    def _run(self) -> None:
        self._sink.open()
        while (record := self._queue.get()) is not None:
            self._sink.write(*record)
        self._sink.close()


class TensorBoard:
    """Event files for TensorBoard, where a resumed run hides what came after `resume_step`."""

    name = "TensorBoard"

    def __init__(self, directory: Path, resume_step: int | None) -> None:
        self.directory = directory
        self._purge_step = None if resume_step is None else resume_step + 1
        self._writer: Any = None

    def open(self) -> None:
        """Begin an event file."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(self.directory), purge_step=self._purge_step)
        self._purge_step = None  # a file begun after a failure goes on with this launch's curves

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Write the numbers. They are on disk when it returns: a killed run's curve has no hole before its checkpoint.

        Raises:
            FileNotFoundError: somebody deleted the directory, which a write to an open file would not notice.
        """
        if not self.directory.is_dir():
            raise FileNotFoundError(f"{self.directory} is gone")
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the event file."""
        self._writer.close()
