"""A process that stands still is ended, with the stacks of its threads on stderr."""

import faulthandler
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from contrastive import distributed

STATUS = 70  # EX_SOFTWARE of <sysexits.h>
STDERR = 2  # a progress line may have replaced sys.stderr
STEP = "step"
GRACE_SHARE, GRACE_SECONDS = 0.2, 5.0
ANSWER_SECONDS = 5.0  # for who knows more, which may ask what does not answer either
T = TypeVar("T")


def answer_within(seconds: float, ask: Callable[[], T]) -> T | None:
    """Return what `ask` returns, None if it takes longer; a thread goes on waiting for it then."""
    answers: queue.SimpleQueue[T] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True, name="question").start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return None


class Watchdog:
    """Ends this process, with STATUS, when no beat has come for `seconds`; None never does.

    Until a second step begins, first collectives and compilers may take `start_seconds`. A thread does it and says so
    first, with what `describe` knows. Where it cannot run, because C code keeps the interpreter to itself, faulthandler
    ends the process a fifth later, at least 5 s, with its own words and status 1. Time in which the process is stopped
    (SIGSTOP) counts for faulthandler, hardly for the thread.
    """

    def __init__(
        self,
        seconds: float | None,
        start_seconds: float,
        *,
        describe: Callable[[], str] | None = None,
        key: str = "train.hang_seconds",
    ) -> None:
        self.seconds, self.start_seconds, self.describe, self.key = seconds, start_seconds, describe, key
        self._stage: tuple[str, int | None] = ("the start", None)
        self._beats = self._steps = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, stage: str, number: int | None = None) -> None:
        """Say that the process is alive, and what it begins: `stage`, say STEP, with its number. Takes under 1 us."""
        self._stage = (stage, number)
        self._beats += 1
        if stage == STEP:
            self._steps += 1

    def __enter__(self) -> "Watchdog":
        if self.seconds is not None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            faulthandler.cancel_dump_traceback_later()

    @property
    def limit(self) -> float:
        """How many seconds without a beat are too many now."""
        assert self.seconds is not None, "the watchdog is on"
        return self.seconds if self._steps > 1 else max(self.start_seconds, self.seconds)

    def _watch(self) -> None:
        seen, quiet = self._beats, 0.0
        while True:
            limit = self.limit
            tick = min(1.0, limit / 10)
            # Here, not at each beat: it costs 45 us. As long as this thread runs, it sees itself whether beats come.
            backstop = limit + max(GRACE_SECONDS, GRACE_SHARE * limit)
            faulthandler.dump_traceback_later(backstop, exit=True, file=STDERR)
            before = time.monotonic()
            if self._ended.wait(tick):
                return
            if self._beats != seen:
                seen, quiet = self._beats, 0.0
            else:
                quiet += min(time.monotonic() - before, 2 * tick)
            if quiet >= self.limit:
                self._end(quiet)

    def _end(self, quiet: float) -> None:
        stage, number = self._stage
        where = stage if number is None else f"{stage} {number}"
        line = f"rank {distributed.rank()}: nothing for {quiet:.0f} s in {where} ({self.key}); stacks follow\n"
        os.write(STDERR, line.encode(errors="replace"))
        known = None if self.describe is None else answer_within(ANSWER_SECONDS, self.describe)
        if known:
            os.write(STDERR, f"rank {distributed.rank()}: {known}\n".encode(errors="replace"))
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        for child in multiprocessing.active_children():  # where the kernel does not do it
            child.kill()
        os._exit(STATUS)
