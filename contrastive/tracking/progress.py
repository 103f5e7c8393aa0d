"""Lines that tell people how far the work is."""

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("contrastive")


class ProgressLine:
    """A live bar on a terminal; elsewhere the same figures as plain log lines, which suit job logs.

    `first` is the step a resumed run goes on from: the time that is left is judged by this launch's steps alone.
    """

    def __init__(self, total: int, enabled: bool, first: int = 0) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        self.enabled, self.total, self.first, self._started = enabled, total, first, time.monotonic()
        if enabled and console.is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("", total=total, completed=first)

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the figures of `step`, of which there are `total`."""
        if not self.enabled:
            return
        line = (
            f"loss {values['loss']:.3f}  {values['samples_per_second']:,.0f} samples/s  "
            f"data wait {values['data_wait_share']:.0%}"
        ) + (f"  MFU {values['mfu']:.0%}" if "mfu" in values else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
            return
        left = (time.monotonic() - self._started) / max(step - self.first, 1) * (self.total - step)
        log.info("step %d/%d  %s  %s left", step, self.total, line, _minutes(left))


class CountLine:
    """Tells how many of how many are done: a bar on a terminal, else a line now and then; nothing for short work."""

    EVERY_SECONDS = 10.0

    def __init__(self, what: str, enabled: bool = True) -> None:
        self.what, self.enabled = what, enabled
        self._bar: Progress | None = None
        self._console = Console(stderr=True)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "CountLine":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it got; may be called as often as one likes."""
        now = time.monotonic()
        if not self.enabled or now - self._started < 1:
            return
        if self._console.is_terminal:
            self._draw(done, total)
        elif now - self._said >= self.EVERY_SECONDS:
            self._said = now
            left = (now - self._started) / max(done, 1) * (total - done)
            log.info("%s %s/%s  %s left", self.what, f"{done:,}", f"{total:,}", _minutes(left))

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self.what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
