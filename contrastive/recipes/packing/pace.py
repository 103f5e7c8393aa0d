"""A line that tells how far, how fast and how long yet, also while the first shards are being written."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("contrastive")
LOOK_SECONDS = 0.5  # between two looks at what is under way
SAID_SECONDS = 10.0  # between two log lines


class Pace:
    """Counts what is done, in `unit`, as a bar on a terminal, else as a log line now and then; nothing for short work.

    `total` 0 is unknown, and `first` was done before: the rate is that of the rest. A thread adds what `under_way`
    says, for those who are told of whole shards only. `listener` is told instead of people, where there is one.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int = 0,
        first: int = 0,
        listener: Callable[[int, int], None] | None = None,
        under_way: Callable[[], int] | None = None,
    ) -> None:
        self.what, self.unit, self.total, self.first, self.listener = what, unit, total, first, listener
        self._done, self._under_way = first, under_way
        self._bar: Progress | None = None
        self._console = Console(stderr=True)
        self._started = self._said = time.monotonic()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name=what)

    def __enter__(self) -> "Pace":
        if self._under_way is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Take down that so many are done."""
        self._done, self.total = done, total
        self._tell(done)

    def _watch(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._tell(self._done + (self._under_way() if self._under_way is not None else 0))

    def _tell(self, done: int) -> None:
        with self._lock:
            done = min(done, self.total) if self.total else done
            now = time.monotonic()
            if self.listener is not None:
                self.listener(done, self.total)
            elif now - self._started < 1:
                return
            elif self._console.is_terminal:
                self._draw(done, now)
            elif now - self._said >= SAID_SECONDS:
                self._said = now
                log.info("%s", self._line(done, now))

    def _rate(self, done: int, now: float) -> float:
        return (done - self.first) / max(now - self._started, 1e-3)

    def _line(self, done: int, now: float) -> str:
        rate = self._rate(done, now)
        line = f"{self.what} {done:,}{f'/{self.total:,}' if self.total else ''} {self.unit}  {rate:,.0f}/s"
        if not self.total or not rate:
            return line
        left = int((self.total - done) / rate)
        return f"{line}  {left // 60}:{left % 60:02d} left"

    def _draw(self, done: int, now: float) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self.what, total=self.total or None, completed=self.first)
            self._bar.start()
        text = f"{self.what}, {self._rate(done, now):,.0f} {self.unit}/s"
        self._bar.update(self._task, completed=done, total=self.total or None, description=text)
