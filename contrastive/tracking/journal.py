"""`metrics.jsonl`: one JSON object a record, in the order of steps also after a resume."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from contrastive.files import write_durably

log = logging.getLogger("contrastive")
Row = dict[str, Any]


class Journal:
    """A sink that appends to a file of JSON lines.

    A resumed run writes what came after `resume_step` again: those rows are dropped first, and a line that a kill has
    torn. A file that is deleted meanwhile is begun anew.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path, self.name = path, path.name
        self._resume_step = resume_step
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        """Drop what will come again, then open the end of the file."""
        if self._resume_step is not None:
            self._drop_after(self._resume_step)
            self._resume_step = None  # after a failure, the file has this launch's rows
        self._file = self.path.open("ab", buffering=0)  # unbuffered: a line is with the system as soon as it is whole
        if not _ends_whole(self.path):
            self._file.write(b"\n")

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:  # noqa: ARG002  (a sink's signature)
        """Write one line.

        Raises:
            OSError: it could not be written whole.
        """
        assert self._file is not None
        if not self.path.exists():
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
            log.warning("%s was deleted; it goes on in a new file", self.path)
        line = json.dumps(row, default=str).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError("the disk took a part of a line")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def rows(self) -> list[Row]:
        """Return the rows that are in the file and not damaged; none where it cannot be read."""
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return []
        return [row for row in map(_parsed, lines) if row is not None]

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        rows = ((line, _parsed(line)) for line in content.splitlines())
        kept = b"".join(line + b"\n" for line, row in rows if row is not None and row["step"] <= step)
        if kept != content:
            write_durably(self.path, kept.decode())


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int | float) else None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
