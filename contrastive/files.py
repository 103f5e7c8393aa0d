"""Files that are there whole or not at all, also after a crash, and what tells whether they have changed."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", suffix=suffix, delete=False) as file:
        try:
            yield file
            file.close()
            os.chmod(file.name, 0o644)  # a temporary file is private
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_whole(path: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(content.encode())


def write_durably(path: Path, content: str) -> None:
    """Write a text file, whole or not at all, that outlives a loss of power."""
    with replacing(path) as file:
        file.write(content.encode())
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content; other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
