"""A disk that fills while data are packed: said in one line, with how much room there is and how much is needed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrastive.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: the largest file that a user may write
RULE = "make room, and run the command again: it goes on where it stopped"


class DiskFullError(DataError):
    """The disk is full. `path` is what could not be written."""

    def __init__(self, path: str, said: str, needed: str = "") -> None:
        super().__init__(path, said, needed)
        self.path, self.said, self.needed = path, said, needed

    def __str__(self) -> str:
        free = f"{size(_free(self.path))} are free"
        return f"{self.path} cannot be written: {self.said} ({free}{self.needed}); {RULE}"


@contextmanager
def told_when_full(path: str) -> Iterator[None]:
    """Turn the error of a full disk into one line about `path`.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(path, error.strerror or "the disk is full") from error


def missing_room(folder: Path, samples: int, packed: int, written: int) -> tuple[int, int]:
    """Return the bytes that the rest of `samples` will take, judged by those that are packed, and the bytes free."""
    needed = (samples - packed) * written // packed if packed else 0
    return needed, _free(str(folder))


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def _free(path: str) -> int:
    while path and not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path or ".").free
