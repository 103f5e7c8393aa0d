"""Processes that belong to this one: deaf to what stops a run, gone when it is gone, and ended by it in time."""

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # what schedulers, people and launchers send
PATIENCE_SECONDS = 1.0  # to end by themselves, for all processes of one context together
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Have Linux send this process a signal when `parent`, which started it, is gone; elsewhere do nothing.

    What counts as the parent is the thread that started it: where that ends, the signal comes.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, *(ctypes.c_ulong(value) for value in (number, 0, 0, 0)))
    if os.getppid() != parent:  # it went before the kernel knew
        os.kill(os.getpid(), number)


def end_with_launcher() -> None:
    """End this rank at once when the elastic launcher that started it is gone; a process without one goes on alone.

    The launcher puts each rank into a session of its own, so that a launcher that is killed leaves them all training.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGKILL, os.getppid())


class Workers(ForkContext):
    """A multiprocessing context for the loaders of a run: what its processes do, they do for this one.

    They never get the signals that stop a run: a launcher sends them to the whole process group, and the save that
    follows may still need batches. They end with this process, whatever ends it. Those that do not end when asked are
    killed, for they hold nothing: all of one context have PATIENCE_SECONDS together, and none at interpreter exit.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._started: list[_Worker] = []
        self._patience_until: float | None = None

    def Process(self, *arguments: Any, **options: Any) -> "_Worker":  # type: ignore[override]  # noqa: N802  (the base class names it)
        """Return a process of this context, not yet started."""
        return _Worker(self, *arguments, **options)

    def deaths(self) -> list[str]:
        """Return what to say of each process that has died, rather than ended."""
        found = [(process.pid, process.exitcode) for process in self._started]
        return [f"process {pid} {_end(code)}" for pid, code in found if code]

    def _note(self, process: "_Worker") -> None:
        if not self._started:
            # Now, so that it runs before multiprocessing's own: that one would ask by SIGTERM, and wait for ever.
            atexit.register(self._kill)
        self._started.append(process)

    def _forget(self) -> None:
        if all(process.exitcode is not None for process in self._started):
            atexit.unregister(self._kill)

    def _patience(self) -> float:
        if self._patience_until is None:
            self._patience_until = time.monotonic() + PATIENCE_SECONDS
        return max(0.0, self._patience_until - time.monotonic())

    def _kill(self) -> None:
        if os.getpid() != self._owner:
            return
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise that its workers die
        for process in self._started:
            process.kill()
        for process in self._started:
            process.join()


class _Worker(ForkProcess):
    def __init__(self, context: Workers, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._context, self._is_killed = context, False

    def start(self) -> None:
        # Blocked, not ignored: torch gives its workers a handler of SIGTERM, which would undo it. What is blocked here
        # is blocked there from its first moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._context._note(self)

    def run(self) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "runs in the process that was started"
        end_with_parent(signal.SIGKILL, parent.pid or 0)
        super().run()

    def join(self, timeout: float | None = None) -> None:
        if timeout is not None and not self._is_killed:
            timeout = min(timeout, self._context._patience())
        super().join(timeout)
        self._context._forget()

    def kill(self) -> None:
        self._is_killed = True
        super().kill()

    def terminate(self) -> None:
        self.kill()


def _end(code: int) -> str:
    return f"ended with status {code}" if code > 0 else f"was ended by signal {-code} ({signal.strsignal(-code)})"
