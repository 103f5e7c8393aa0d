"""What balancing did: entries before and after, as a table for other tools and as a step's report."""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.files import write_whole
from contrastive.recipes.step import Histogram, histogram

TOP = 20  # entries that the report names
ENTRIES = "entries.csv"


class Balance(NamedTuple):
    """Entries with the samples that they match before and after, int64 [E], and what was drawn."""

    names: list[str]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    t: int
    expected: float  # samples that draws keep on average, the sum of the probabilities
    unmatched: int  # samples without an entry

    @property
    def order(self) -> list[int]:
        """The entries, the most frequent before first, of equal ones as they stand in the list."""
        return np.argsort(-self.before, kind="stable").tolist()  # type: ignore[no-any-return]

    def write(self, folder: Path) -> None:
        """Write all entries with their counts and probabilities as CSV."""
        content = io.StringIO()
        rows = csv.writer(content, lineterminator="\n")
        rows.writerow(("entry", "before", "after", "probability"))
        for at in self.order:
            chance = self.t / max(int(self.before[at]), self.t)
            rows.writerow((self.names[at], self.before[at], self.after[at], f"{chance:.6g}"))
        write_whole(folder / ENTRIES, content.getvalue())

    def figures(self) -> dict[str, Any]:
        """Return the numbers that say how much was balanced, by their names."""
        before, after = self.before, self.after
        tail = before <= self.t
        found: dict[str, Any] = {
            "t": self.t,
            "entries": len(self.names),
            "entries that match a sample": int((before > 0).sum()),
            "entries in the head, with more than t": int((~tail).sum()),
            "matches before": int(before.sum()),
            "matches after": int(after.sum()),
            "share of matches in the tail, before": _share(before, tail),
            "share of matches in the tail, after": _share(after, tail),
            "samples without an entry": self.unmatched,
            "samples that draws keep on average": round(self.expected, 1),
        }
        for at in self.order[:TOP]:
            if before[at]:
                found[f"entry {self.names[at]!r}, before and after"] = f"{before[at]:,} > {after[at]:,}"
        return found

    def histograms(self) -> dict[str, Histogram]:
        """Return how many samples entries have, before and after, on a logarithmic scale."""
        title = "entries by samples, log10, {}"
        counted = {"before": self.before, "after": self.after}
        return {
            title.format(name): histogram(np.log10(counts[counts > 0]), float(np.log10(self.t)))
            for name, counts in counted.items()
            if (counts > 0).any()
        }


def _share(counts: NDArray[np.int64], tail: NDArray[np.bool_]) -> str:
    return f"{counts[tail].sum() / max(1, counts.sum()):.2%}"
