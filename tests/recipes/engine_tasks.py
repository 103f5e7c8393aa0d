"""Tasks that engines run in other processes, which import them from here."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from contrastive.errors import DataError


def later(number: int) -> tuple[int, int]:
    """Return the square and the process; the earlier tasks take longer."""
    time.sleep(0.02 * (number % 3 == 0))
    return number * number, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise DataError("shard 3: is broken")
    return number


def fail(number: int) -> int:
    return 1 // (number - 3)


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@dataclass(frozen=True)
class DieOnce:
    """Kills its process at task 3, the first time."""

    mark: Path

    def __call__(self, number: int) -> int:
        if number == 3 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@dataclass
class Counting:
    """Counts how often it was called in this process, so that what it holds is seen to stay."""

    calls: int = 0

    def __call__(self, number: int) -> tuple[int, int]:
        self.calls += 1
        return os.getpid(), self.calls


def threads(_: int) -> int:
    import torch  # takes a process seconds, which the other tasks need not wait for

    return torch.get_num_threads()


def read(name: str) -> str:
    return Path(name).read_text()
