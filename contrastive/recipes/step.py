"""What a step of curation leaves beside its result: counts, figures, distributions and examples with pictures."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.files import write_whole
from contrastive.hashing import mix
from contrastive.recipes.samples import thumbnail

REPORT, VERDICTS = "report.json", "verdicts.parquet"
EXAMPLES = 12  # of each reason


@dataclass(frozen=True)
class Example:
    """One sample to look at; `image` is a JPEG in base64, `note` what the step says of it."""

    key: str
    caption: str
    note: str = ""
    image: str | None = None


@dataclass(frozen=True)
class Histogram:
    """A distribution: `counts[i]` values lie in [edges[i], edges[i + 1]); `limit` is where the step cut."""

    edges: Sequence[float]
    counts: Sequence[int]
    limit: float | None = None


@dataclass
class Step:
    """A step's report. `counts` are samples by what became of them, `figures` numbers with their names."""

    title: str
    command: Sequence[str] = ()
    samples: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # by reason
    figures: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)  # by reason; "kept" too
    notes: list[str] = field(default_factory=list)  # sentences for the reader
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write report.json into a folder; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / REPORT, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return folder / REPORT


def histogram(values: NDArray[Any], limit: float | None = None, bins: int = 40) -> Histogram:
    """Return the distribution of the finite ones of `values`."""
    finite = np.asarray(values, np.float64)
    counts, edges = np.histogram(finite[np.isfinite(finite)], bins)
    return Histogram([round(float(edge), 6) for edge in edges], counts.tolist(), limit)


def example(key: str, caption: str, image: Any = None, note: str = "") -> Example:
    """Return a sample to look at, with a small copy of its Pillow image."""
    picture = None if image is None else base64.b64encode(thumbnail(image)).decode()
    return Example(key, caption[:300], note, picture)


def chosen(numbers: Sequence[int], most: int = EXAMPLES, seed: int = 0) -> list[int]:
    """Return at most `most` of the numbers, drawn by a hash, in order: the same ones in every run."""
    drawn = np.argsort(mix("examples", seed, np.asarray(numbers, np.int64)), kind="stable")[:most]
    return sorted(numbers[at] for at in drawn.tolist())
