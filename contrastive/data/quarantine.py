"""Samples that had to be replaced: counted, written down, and too many of them end the run."""

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contrastive.data.rows import Replaced
from contrastive.errors import DataError

log = logging.getLogger("contrastive")
FILE = "quarantine.jsonl"
RECENT = 10_000  # delivered samples over which the share of bad ones is judged
FEWEST = 1_000  # of so many at least: two bad ones of the first twenty say nothing
IN_A_ROW = 100


def json_line(one: Replaced) -> str:
    """Return what a quarantine file says of a bad sample; see `contrastive.data.skips`."""
    names = ("location", "key", "row", "offset", "reason", "message")
    return json.dumps({"shard": Path(one.location).name, **{name: getattr(one, name) for name in names}}) + "\n"


@dataclass
class Tally:
    """Delivered rows, and the replaced ones by reason and by shard."""

    delivered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)

    @property
    def replaced(self) -> int:
        """How many rows were filled by a substitute."""
        return self.reasons.total()

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.delivered + other.delivered, self.reasons + other.reasons, self.shards + other.shards)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        shards = ", ".join(f"{Path(name).name} {count:,}" for name, count in self.shards.most_common(3))
        most = f"; most in {shards}" if shards else ""
        return f"{self.reasons.total():,} of {self.delivered:,} samples replaced ({reasons or 'none'}){most}"


class Quarantine:
    """What one process met. Each bad sample is written once to `path`, a line of JSON; None writes nothing.

    Several processes may write to one file: a line is one append.
    """

    def __init__(self, path: Path | None = None, max_share: float = 0.01) -> None:
        self.path, self.max_share = path, max_share
        self.delivered = 0
        self.reasons: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        self._known: set[tuple[str, int]] = set()
        self._recent: deque[tuple[int, int]] = deque()  # (rows, bad ones) of the latest pieces
        self._row = 0

    @property
    def replaced(self) -> int:
        """How many rows were filled by a substitute so far."""
        return self.reasons.total()

    def note(self, rows: int, replaced: Sequence[Replaced]) -> None:
        """Count `rows` delivered rows, of which `replaced` are the bad ones in their order.

        Raises:
            DataError: too many of the recent rows are bad.
        """
        self.delivered += rows
        self._recent.append((rows, len(replaced)))
        while sum(count for count, _ in self._recent) - self._recent[0][0] >= RECENT:
            self._recent.popleft()
        self._row = self._row + len(replaced) if len(replaced) >= rows else 0
        for one in replaced:
            self._write(one)
        if replaced:
            self._judge(replaced[-1])

    def tally(self) -> "Tally":
        """Return what was counted, to be put together over processes."""
        return Tally(self.delivered, Counter(self.reasons), Counter(self.shards))

    def _write(self, one: Replaced) -> None:
        self.reasons[one.reason] += 1
        self.shards[one.location] += 1
        if self.shards[one.location] == 1:
            log.warning(
                "replaced by sample %d: %s; further ones of this shard are only counted", one.substitute, one.message
            )
        if (one.location, one.row) in self._known:
            return
        self._known.add((one.location, one.row))
        if self.path is not None:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, json_line(one).encode())
            finally:
                os.close(file)

    def _judge(self, last: Replaced) -> None:
        rows, bad = (sum(part) for part in zip(*self._recent, strict=True))
        said = f"the last is {last.key} at byte {last.offset} of {last.location} ({last.reason})"
        rule = "see contrastive data verify, and data.max_bad_share to go on all the same"
        if self.max_share < 1 and self._row >= IN_A_ROW:
            raise DataError(f"data: {self._row} samples in a row cannot be used; {said}; {rule}")
        if bad > self.max_share * max(rows, FEWEST):
            share = f"{bad} of the last {rows:,} samples cannot be used, more than {self.max_share:.2%}"
            raise DataError(f"data: {share}; {said}; {rule}")
