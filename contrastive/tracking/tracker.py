"""The one that a run tells its figures."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contrastive.tracking.external import External, identity
from contrastive.tracking.journal import Journal, Row
from contrastive.tracking.sinks import Background, Guarded, TensorBoard

JOURNAL = "metrics.jsonl"


class Tracker:
    """Appends records to `metrics.jsonl`, and sends their numbers to TensorBoard, where installed, and to `trackers`.

    For the main process alone. A resumed run says from which step it goes on; what had been written after it is
    dropped, for it will be written again. Nothing that fails here stops a run; see `Guarded`.
    """

    def __init__(
        self,
        directory: Path,
        tensorboard: bool,
        trackers: Sequence[str] = (),
        *,
        project: str = "contrastive",
        config: Mapping[str, Any] = MappingProxyType({}),
        resume_step: int | None = None,
    ) -> None:
        self._journal = Journal(directory / JOURNAL, resume_step)
        self._sinks: list[Guarded | Background] = [Guarded(self._journal)]
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            self._sinks.append(Guarded(TensorBoard(directory / "tensorboard", resume_step)))
        if trackers:
            known_as, is_resumed = identity(directory), resume_step is not None
            for name in dict.fromkeys(trackers):
                sink = External(name, directory / name, project, config, identity=known_as, is_resumed=is_resumed)
                self._sinks.append(Background(Guarded(sink)))
        for each in self._sinks:
            each.open()

    def record(self, kind: str, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Write one record; numbers that are not finite become null, which JSON can hold.

        Curves are called `prefix/name`, or `kind/name` without one.
        """
        row = {"kind": kind, "step": step, **_plain(values)}
        numbers = dict(_numbers(values, prefix or kind))
        for sink in self._sinks:
            sink.write(row, numbers)

    def recorded(self, kind: str, step: int) -> list[Row]:
        """Return the rows of a kind that have been written for a step, by earlier launches too."""
        return [row for row in self._journal.rows() if row.get("kind") == kind and row["step"] == step]

    def close(self) -> None:
        """Write what is still buffered."""
        for sink in self._sinks:
            sink.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _numbers(values: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}/{name}", float(value)))
    return found
