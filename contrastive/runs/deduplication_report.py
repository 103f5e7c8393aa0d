"""What a deduplication leaves: verdicts on all samples, the groups, and pictures of what was found side by side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.files import replacing
from contrastive.recipes.curation.duplicates import REASONS, Stars, sizes_of_groups
from contrastive.recipes.curation.leaks import Leaks, Reference
from contrastive.recipes.curation.signatures import Records, reasons
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import VERDICTS, Example, Histogram, Step, chosen, example, histogram
from contrastive.recipes.verdicts import Verdict, writing_verdicts
from contrastive.runs.deduplication_request import Request
from contrastive.runs.steps import command_line

GROUPS = "groups.parquet"
SCORES = ("distance", "likeness", "cosine")
SIDE = 160  # pixels of each of two pictures
GAP = 8
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("key", pa.string()),
        ("reason", pa.string()),
        ("representative", pa.int64()),  # its number in the pool; of a leak in the evaluation set
        ("representative_key", pa.string()),
        *((name, pa.float32()) for name in SCORES),
    ]
)
BATCH = 65_536


@dataclass(frozen=True)
class Outcome:
    """What was found of all samples."""

    reader: Reader
    request: Request
    records: Records
    stars: Stars
    leaks: list[tuple[Reference, Leaks]]
    compared: int

    @cached_property
    def unreadable(self) -> dict[int, str]:
        """Why samples cannot be read."""
        return dict(reasons(self.records))

    @cached_property
    def leaked(self) -> NDArray[np.int64]:
        """Which set each sample shows an image of, the first of several; -1 for none."""
        found = np.full(len(self.reader.pool), -1, np.int64)
        for at, (_, leaks) in reversed(list(enumerate(self.leaks))):
            found[leaks.image >= 0] = at
        return found

    def verdict(self, number: int) -> Verdict:
        """Return what becomes of a sample."""
        if number in self.unreadable:
            return Verdict(number, self.unreadable[number])
        found: Stars | Leaks = self.stars
        reason = REASONS[self.stars.reason[number]]
        if self.leaked[number] >= 0:
            reference, found = self.leaks[self.leaked[number]]
            reason = f"leak: {reference.name}"
        values = {name: float(getattr(found, name)[number]) for name in SCORES}
        return Verdict(number, reason, {name: value for name, value in values.items() if np.isfinite(value)})

    def other(self, number: int) -> tuple[int, str, Callable[[], Image.Image]]:
        """Return the number, the name and the picture of what stands for a sample that is dropped."""
        if self.leaked[number] >= 0:
            reference, leaks = self.leaks[self.leaked[number]]
            image = int(leaks.image[number])
            return image, reference.name_of(image), lambda: reference.image_of(image)
        kept = int(self.stars.kept_for[number])
        sample = Sample(self.reader, kept)
        return kept, sample.key, lambda: sample.image


def write(outcome: Outcome, out: Path) -> Step:
    """Write verdicts and groups; return the report."""
    request, pool = outcome.request, outcome.reader.pool
    provenance = _provenance(outcome)
    names = [*(("distance", "likeness") if request.looks else ()), *(("cosine",) if request.embeds else ())]
    dropped: dict[str, list[int]] = {}
    with writing_verdicts(out / VERDICTS, pool, provenance, names) as verdicts:
        for number in range(len(pool)):
            verdict = outcome.verdict(number)
            verdicts.add(verdict)
            if verdict.reason:
                dropped.setdefault(verdict.reason, []).append(number)
    _write_groups(outcome, out / GROUPS)
    counts = {reason: len(numbers) for reason, numbers in sorted(dropped.items())}
    step = Step("Duplicates and leaks" if outcome.leaks else "Duplicates", command_line(), len(pool))
    step.kept, step.dropped, step.provenance = len(pool) - sum(counts.values()), counts, provenance
    step.examples = {reason: _examples(outcome, numbers) for reason, numbers in sorted(dropped.items())}
    _add_figures(step, outcome)
    return step


def _provenance(outcome: Outcome) -> dict[str, Any]:
    request = outcome.request
    said: dict[str, Any] = {"step": "dedup", "method": request.method, "of": request.of, "keep": request.keep}
    if request.looks:
        said |= {"distance": request.rule.distance, "likeness": request.rule.likeness}
    if request.embeds:
        said |= {"threshold": request.threshold}
    if request.score is not None:
        said["score"] = request.score.rpartition(":")[2]
    if outcome.leaks:
        said["against"] = {one.name: one.count for one, _ in outcome.leaks}
    return said


def _write_groups(outcome: Outcome, path: Path) -> None:
    """Write a row for each sample that is dropped and can be read: what it is near to, and how near."""
    with replacing(path, ".parquet") as file, parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        rows = []
        for row in _rows(outcome):
            rows.append(row)
            if len(rows) == BATCH:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    pool = outcome.reader.pool
    for number in np.flatnonzero((outcome.leaked >= 0) | (outcome.stars.reason > 0)).tolist():
        verdict, (other, name, _) = outcome.verdict(number), outcome.other(number)
        key = pool.find(number).row.key
        said = {"number": number, "key": key, "representative": other, "representative_key": name}
        yield {**said, "reason": verdict.reason, **verdict.scores}


def _add_figures(step: Step, outcome: Outcome) -> None:
    request, stars = outcome.request, outcome.stars
    groups = sizes_of_groups(stars)
    step.figures = {"groups": len(groups), "samples in the largest group": int(groups.max(initial=0))}
    if request.looks:
        step.figures["pairs of images compared"] = outcome.compared
        edges = [round(float(edge), 4) for edge in np.linspace(0.5, 1, len(stars.compared) + 1)]
        step.histograms["likeness of candidates"] = Histogram(edges, stars.compared.tolist(), request.rule.likeness)
    for name, limit in (("distance", float(request.rule.distance)), ("cosine", request.threshold)):
        values = getattr(stars, name)
        if np.isfinite(values).any():
            step.histograms[f"{name} to the kept one"] = histogram(values, limit)
    if len(groups):
        edges = [2**power for power in range(1, int(groups.max()).bit_length() + 1)]
        counts = np.histogram(groups, edges)[0].tolist()
        step.histograms["samples in a group"] = Histogram([float(edge) for edge in edges], counts)
    for reference, leaks in outcome.leaks:
        shown = len(np.unique(leaks.image[leaks.image >= 0]))
        said = f"{reference.name}: {shown:,} of {reference.count:,} images are in the shards"
        unread = len(reasons(reference.records))
        step.notes.append(f"{said}; {unread:,} cannot be read and were not looked for" if unread else said)


def _examples(outcome: Outcome, numbers: list[int]) -> list[Example]:
    return [_example(outcome, number) for number in chosen(numbers)]


def _example(outcome: Outcome, number: int) -> Example:
    """Return a sample beside what stands for it; without a picture where one of them cannot be read."""
    sample = Sample(outcome.reader, number)
    try:
        caption = sample.captions[0]
    except DataError:
        caption = ""
    if number in outcome.unreadable:
        return example(sample.key, caption)
    verdict, (_, name, picture) = outcome.verdict(number), outcome.other(number)
    scores = "".join(f", {what} {value:.4g}" for what, value in verdict.scores.items())
    where = "shows" if outcome.leaked[number] >= 0 else "kept is"
    try:
        image = side_by_side(sample.image, picture())
    except (BadSampleError, DataError):
        image = None
    return example(sample.key, caption, image, f"{where} {name}{scores}")


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Return two pictures on one white ground, each at most SIDE pixels wide and high."""
    ground = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for at, image in enumerate((left.convert("RGB"), right.convert("RGB"))):
        image.thumbnail((SIDE, SIDE))
        ground.paste(image, (at * (SIDE + GAP), 0))
    return ground
