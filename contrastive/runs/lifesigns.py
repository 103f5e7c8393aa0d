"""Which rank is lost: what an exchange that fails does not say."""

import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.train.watchdog import answer_within

log = logging.getLogger("contrastive")
PERIOD_SECONDS, PATIENCE_SECONDS, ANSWER_SECONDS = 1.0, 2.5, 2.0
LIFE, LOST = "life", "lost"
STATUS, STDERR = 2, 2


class LifeSigns:
    """Says every second that this process lives, where all can see it; finds who does not, when others are waited for.

    Neighbours of a lost rank notice at once, others wait for those: a thread ends them when it reads who was lost. It
    costs two small messages a rank and second, to the store of the launcher.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = hosts  # by rank; asked for in time, since the store may be lost as well
        self._ended, self._looks = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "LifeSigns":
        if len(self.hosts) > 1:
            self._thread = threading.Thread(target=self._live, daemon=True, name="life signs")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Name who is lost, if the block has failed because of that.

        Raises:
            RunError: others are lost.
        """
        try:
            failed = self._thread is not None and error is not None and distributed.is_failed_exchange(error)
            if failed and (lost := self._find()):
                raise RunError(_sentence(lost, str(error))) from error
        finally:
            self._ended.set()
            if self._thread is not None:
                self._thread.join(1.0)  # it may wait for a store that does not answer
                self._thread = None

    def silent(self) -> str:
        """Return who gives no sign of life; empty where all do. It takes PATIENCE_SECONDS."""
        lost = self._find() if self._thread is not None else ""
        return f"{lost}: no sign of life" if lost else ""

    def _live(self) -> None:
        beats = 0
        try:
            while not self._ended.wait(PERIOD_SECONDS):
                beats += 1
                distributed.tell_everyone(f"{LIFE}/{distributed.rank()}", str(beats))
                known = distributed.told(LOST)
                if known and not self._looks.is_set():
                    os.write(STDERR, f"[rank {distributed.rank()}] error: {_sentence(known)}\n".encode())
                    os._exit(STATUS)
        except (RuntimeError, ValueError) as error:  # the store is gone; if too early, the main thread will notice
            log.debug("no more signs of life: %s", error)

    def _find(self) -> str:
        """Return who is lost, as the first rank to look has found it; empty where all live.

        Rank 0's launcher holds what is looked at: if that does not answer, it is rank 0.
        """
        self._looks.set()
        found = answer_within(PATIENCE_SECONDS + ANSWER_SECONDS, self._look)
        return f"rank 0 on {self.hosts[0]}" if found is None else found

    def _look(self) -> str | None:
        try:
            before, until = self._beats(), time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < until:
                if known := distributed.told(LOST):
                    return known
                self._ended.wait(0.1)
            after = self._beats()
            silent = [rank for rank in range(len(after)) if before[rank] == after[rank] and rank != distributed.rank()]
            found = ", ".join(f"rank {rank} on {self.hosts[rank]}" for rank in silent)
            if found:
                distributed.tell_everyone(LOST, found)
                if len(silent) + 1 < len(self.hosts):
                    self._ended.wait(1.5 * PERIOD_SECONDS)  # others have to read it: with rank 0, the store may end
        except RuntimeError:
            return None
        return found

    def _beats(self) -> list[str]:
        return [distributed.told(f"{LIFE}/{rank}") for rank in range(len(self.hosts))]


def _sentence(lost: str, cause: str = "") -> str:
    reason = re.sub(r"^\[[^\]]*\] ", "", cause).split(". ")[0]
    said = f" ({reason})" if reason else ""
    return f"{lost}: gives no sign of life any more{said}; the same command goes on from what is saved"
