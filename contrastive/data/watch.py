"""Signs of life of the processes that read, so that a wait without end names the shard and the stage."""

import ctypes
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from contrastive.errors import DataError

ROOM = 1024  # bytes of a note
TICK_SECONDS = 5.0
INTERRUPT = signal.SIGURG  # not SIGINT, which asks a run to stop; and ignored where it comes too late


class _InterruptError(BaseException):
    """Ends what the main thread is at; no `except Exception` holds it."""


class Watch:
    """One slot a reader, in shared memory: what it does, where, and since when."""

    def __init__(self, readers: int, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        context = multiprocessing.get_context("fork")
        self._since = context.RawArray(ctypes.c_double, readers)
        self._notes = context.RawArray(ctypes.c_char, readers * ROOM)
        self.reader = 0

    @property
    def tick_seconds(self) -> float:
        """How often to look."""
        return min(TICK_SECONDS, self.timeout_seconds / 4)

    def __call__(self, stage: str, where: str) -> None:
        """Note what this reader begins; nothing, when it is done."""
        note = f"{stage} {where}".encode(errors="replace")[: ROOM - 1] if stage else b""
        ctypes.memmove(ctypes.addressof(self._notes) + self.reader * ROOM, note + b"\0", len(note) + 1)
        self._since[self.reader] = time.monotonic()

    def idle_seconds(self) -> float:
        """Return how long ago the latest sign of life of any reader came."""
        return float(time.monotonic() - max(self._since))

    def require_life(self, waited: float) -> None:
        """Refuse to wait on when nothing has moved for too long; `waited` seconds without a batch so far.

        Raises:
            DataError: names what each reader is at.
        """
        quiet = min(waited, self.idle_seconds())
        if quiet >= self.timeout_seconds:
            raise DataError(self.message(quiet))

    def message(self, seconds: float) -> str:
        """Return what to say after `seconds` without a sign of life."""
        rule = "is the file system there? data.timeout_seconds sets the patience"
        return f"data: no sign of life from the readers for {seconds:.0f} s ({self.standing()}); {rule}"

    def standing(self) -> str:
        """Return what every reader is at."""
        notes = []
        for reader in range(len(self._since)):
            note = ctypes.string_at(ctypes.addressof(self._notes) + reader * ROOM).decode(errors="replace")
            notes.append(f"reader {reader}: {note or 'waiting for work'}")
        return "; ".join(notes)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """End a block of the main thread that stops moving: a signal interrupts it, even within a system call.

        Raises:
            DataError: it was.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can be interrupted
            return
        self("begin", "")
        ended, lock = threading.Event(), threading.Lock()
        said: list[str] = []
        main = threading.get_ident()

        def look() -> None:
            while not ended.wait(self.tick_seconds):
                if self.idle_seconds() >= self.timeout_seconds:
                    with lock:
                        if not ended.is_set():
                            said.append(self.message(self.idle_seconds()))
                            signal.pthread_kill(main, INTERRUPT)
                    return

        before = signal.signal(INTERRUPT, _interrupt)
        thread = threading.Thread(target=look, daemon=True, name="data watch")
        thread.start()
        try:
            yield
            with lock:
                ended.set()
        except _InterruptError:
            raise DataError(said[0]) from None
        finally:
            ended.set()
            signal.signal(INTERRUPT, signal.SIG_DFL if before is None else before)


def _interrupt(*_: object) -> None:
    raise _InterruptError
