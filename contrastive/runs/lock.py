"""One job at a time in a run's directory."""

import json
import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from contrastive.errors import RunError
from contrastive.files import write_whole

LOCK, HOLDER = ".lock", ".lock.json"
PATIENCE_SECONDS = 5.0  # for the children of a killed holder: they inherit its lock, and end a moment after it
SHOWN = 120  # characters of a command line


@dataclass(frozen=True)
class Holder:
    """Who works in a run's directory."""

    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since} ({self.command})"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine, and is none any more."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's
            return False
        return False


class RunLock:
    """Keeps other jobs out of a run's directory, which is made where it is missing, until it is left or killed.

    The kernel holds the lock. Who holds it is written next to it, in a file of its own, for filelock empties the one it
    locks in some of its versions; that file is only read to tell a user, and means nothing without the lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self._is_made = directory, False
        # Not bound to a thread: another one may close the run.
        self._lock = FileLock(directory / LOCK, timeout=0, thread_local=False)

    def __enter__(self) -> "RunLock":
        """Take the lock.

        Raises:
            RunError: another job holds it, or the directory cannot be written.
        """
        try:
            self._is_made = not self.directory.exists()
            self.directory.mkdir(parents=True, exist_ok=True)
            self._acquire()
            write_whole(self.directory / HOLDER, json.dumps(asdict(_this())) + "\n")
        except OSError as error:
            self._lock.release()
            raise RunError(f"run.directory: {self.directory} cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is left over means nothing
            (self.directory / HOLDER).unlink()
        self._lock.release()
        if error is not None and self._is_made and {path.name for path in self.directory.iterdir()} <= {LOCK}:
            with suppress(OSError):  # nothing came of it
                (self.directory / LOCK).unlink(missing_ok=True)
                self.directory.rmdir()

    def _acquire(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._lock.acquire()
            except Timeout:
                holder = _holder(self.directory)
                if (holder is None or holder.is_gone) and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                who = "another process" if holder is None else str(holder)
                left = ", which has ended and left others behind" if holder is not None and holder.is_gone else ""
                rule = "wait for it, or choose another directory"
                raise RunError(f"run.directory: {self.directory} is in use by {who}{left}; {rule}") from None
            return


def _this() -> Holder:
    command = shlex.join(sys.orig_argv)
    shown = command if len(command) <= SHOWN else f"{command[: SHOWN - 1]}…"
    return Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M"), shown)


def _holder(directory: Path) -> Holder | None:
    """Return who says that it holds the lock; None where nobody says so, or nobody can read it."""
    try:
        return Holder(**json.loads((directory / HOLDER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
