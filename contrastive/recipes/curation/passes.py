"""A pass over the samples of a pool: spans of them to an engine; what comes back stays on disk until the step ends."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.data.stream import Reader
from contrastive.files import replacing, write_whole
from contrastive.recipes.engine import Engine

log = logging.getLogger("contrastive")
SPAN = 1024  # samples of a task
PART = 64  # tasks of a file: what a kill can lose
Numbers: TypeAlias = NDArray[np.int64]
Columns: TypeAlias = dict[str, NDArray[Any]]  # what a look found: rows of several spans are joined end to end
Look: TypeAlias = Callable[[Reader, Numbers], Columns]
Progress: TypeAlias = Callable[[int, int], None]


def over_spans(
    look: Look, reader: Reader, numbers: Sequence[int] | Numbers, engine: Engine, progress: Progress | None = None
) -> Iterator[tuple[Numbers, Columns]]:
    """Yield each span of the samples, in order, and what `look` finds in it.

    Raises:
        DataError: a process was killed, or `look` raised it.
    """
    spans = _spans(np.asarray(numbers, np.int64))
    done = 0
    for span, found in zip(spans, engine.map(_Task(look, reader), spans), strict=True):
        yield span, found
        done += len(span)
        if progress is not None:
            progress(done, len(numbers))


class Parts:
    """Keeps what a look finds in every sample of the pool in a folder, so that a killed pass goes on where it was.

    `identity` is all that decides the findings beside the samples; what a pass of another identity left is thrown away.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        said = json.dumps({**identity, "span": SPAN, "part": PART}, sort_keys=True, default=str)
        known = folder / "identity.json"
        if folder.exists() and (not known.exists() or known.read_text(encoding="utf-8") != said):
            log.warning("%s: is of other rules or samples; beginning anew", folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(known, said)

    def passed(
        self, look: Look, reader: Reader, engine: Engine, progress: Progress | None = None
    ) -> Iterator[tuple[Numbers, Columns]]:
        """Yield the samples of each part, in order, and what `look` finds in them: read back where it is known.

        Raises:
            DataError: see `over_spans`.
        """
        total, size = len(reader.pool), SPAN * PART
        parts = [np.arange(start, min(start + size, total)) for start in range(0, total, size)]
        missing = {at for at in range(len(parts)) if not self._path(at).exists()}
        spans = (span for at in sorted(missing) for span in _spans(parts[at]))
        found = engine.map(_Task(look, reader), spans)
        done = 0
        for at, numbers in enumerate(parts):
            if at in missing:
                rows = []
                for span in _spans(numbers):
                    rows.append(next(found))
                    done += len(span)
                    if progress is not None:
                        progress(done, total)
                columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
                self._keep(at, columns)
            else:
                with np.load(self._path(at), allow_pickle=False) as file:
                    columns = dict(file)
                done += len(numbers)
            yield numbers, columns

    def end(self) -> None:
        """Remove the folder: the step is done."""
        shutil.rmtree(self.folder)

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.npz"

    def _keep(self, part: int, columns: Columns) -> None:
        with replacing(self._path(part)) as file:
            np.savez_compressed(file, **columns)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Task:
    look: Look
    reader: Reader

    def __call__(self, numbers: Numbers) -> Columns:
        if self.reader.is_remote:
            self.reader.prefetch(numbers.tolist())
        return self.look(self.reader, numbers)


def _spans(numbers: Numbers) -> list[Numbers]:
    return [numbers[start : start + SPAN] for start in range(0, len(numbers), SPAN)]
