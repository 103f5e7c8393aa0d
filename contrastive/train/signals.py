"""What asks a run to stop: noted at once, acted upon where all ranks can agree."""

import logging
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from contrastive import distributed
from contrastive.processes import STOP_SIGNALS

log = logging.getLogger("contrastive")
DEBOUNCE_SECONDS = 1.0  # schedulers signal ranks and launchers, and launchers pass it on: that is one request
STDERR = 2


class StopRequest:
    """Notes the first of the STOP_SIGNALS that comes while it is entered; a later one ends the process at once.

    `signal` is what came, `since` when, in monotonic seconds; both None until then. Signals within DEBOUNCE_SECONDS are
    one request. A thread ends the process, with status 128 + signal: Python's handlers wait for the main thread, which
    may be inside a collective that never returns. Entered by another thread than the main one, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.since: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._leave: Callable[[], None] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        fd_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(reading,), daemon=True, name="stop signals")
        thread.start()

        def leave() -> None:
            signal.set_wakeup_fd(fd_before)
            writing.shutdown(socket.SHUT_RDWR)  # closing alone would not end it where a forked process has a copy
            writing.close()
            thread.join()
            reading.close()

        self._leave = leave
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        _forget_in_children(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
        if self._leave is not None:
            self._leave()
            self._leave = None

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._note(number)

    def _note(self, number: int) -> None:
        if self.since is None:
            self.signal, self.since = signal.Signals(number), time.monotonic()

    def _listen(self, reading: socket.socket) -> None:
        """Act on the numbers of signals, which arrive as bytes whatever the main thread is at."""
        first: float | None = None
        while received := reading.recv(1):
            number = received[0]
            if number not in STOP_SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                self._note(number)
                if distributed.rank() == 0:
                    name = signal.Signals(number).name
                    log.warning("%s: saving at the next step; once more to end now", name)
            elif time.monotonic() - first > DEBOUNCE_SECONDS:
                os.write(STDERR, f"{signal.Signals(number).name} again: ending now\n".encode())
                os._exit(128 + number)


def _forget_in_children(stop: StopRequest) -> None:
    """Give processes that are forked the handlers of before: theirs are other tasks, and their signals other news."""
    known = weakref.ref(stop)

    def forget() -> None:
        found = known()
        if found is not None and found._leave is not None:
            signal.set_wakeup_fd(-1)
            found._restore()

    os.register_at_fork(after_in_child=forget)
