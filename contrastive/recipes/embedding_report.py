"""What is said of the CLIP scores of a pool: one file with all of them, and a report with the worst and best pairs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool
from contrastive.data.stream import BadSampleError, Reader
from contrastive.recipes.embedding import MEAN, SCORE, SCORES, Layout
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import EXAMPLES, Example, Step, chosen, example, histogram
from contrastive.recipes.verdicts import Verdict, writing_verdicts

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
ALL_THE_SAME = 1e-6  # a spread of scores that is float32 noise


class Scored(NamedTuple):
    """The score of each sample, and by reason how many have none, with the numbers of some."""

    scores: NDArray[np.float32]  # [N], NaN without one
    reasons: dict[str, tuple[int, list[int]]]


def write_scores(layout: Layout, pool: Pool, provenance: Mapping[str, Any]) -> Scored:
    """Write scores.parquet, and return what is in it.

    Raises:
        DataError: a chunk is damaged.
    """
    scores = np.full(layout.samples, np.nan, np.float32)
    reasons: dict[str, tuple[int, list[int]]] = {}
    with writing_verdicts(layout.folder / SCORES, pool, provenance, (SCORE, MEAN)) as verdicts:
        for chunk in range(layout.chunks):
            values, _, said = layout.scored(chunk)
            span = layout.span(chunk)
            scores[span.start : span.stop] = values[:, 0]
            without: dict[str, list[int]] = {}
            for number, (score, mean), reason in zip(span, values.tolist(), said, strict=True):
                verdicts.add(Verdict(number, reason, {SCORE: score, MEAN: mean}))
                if reason:
                    without.setdefault(reason, []).append(number)
            for reason, numbers in without.items():
                count, kept = reasons.get(reason, (0, []))
                reasons[reason] = count + len(numbers), chosen([*kept, *numbers])
    return Scored(scores, dict(sorted(reasons.items())))


def report(layout: Layout, reader: Reader, scored: Scored, step: Step) -> Step:
    """Return `step` with what the scores say: counts, quantiles, a histogram, examples with pictures."""
    scores = scored.scores
    found = np.flatnonzero(np.isfinite(scores))
    step.samples, step.kept = layout.samples, len(found)
    step.dropped = {reason: count for reason, (count, _) in scored.reasons.items()}
    for reason, (_, numbers) in scored.reasons.items():
        step.examples[reason] = [Example(reader.pool.find(n).row.key, "", reason) for n in numbers]
    if not len(found):
        step.notes.append("No sample has a score: see the reasons, and try contrastive data verify on these shards.")
        return step
    values = scores[found].astype(np.float64)
    step.figures[f"mean {SCORE}"] = round(float(values.mean()), 4)
    for share, value in zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True):
        step.figures[f"{share:.0%} of the scores lie below"] = round(value, 4)
    step.histograms[SCORE] = histogram(values)
    if len(found) > 1 and np.ptp(values) < ALL_THE_SAME:
        step.notes.append("All scores are the same: the model has collapsed, and they say nothing of the pairs.")
    worst, best = found[extreme(values)], found[extreme(-values)]
    step.examples[f"lowest {SCORE}"] = _pairs(layout, reader, worst.tolist(), scores)
    step.examples[f"highest {SCORE}"] = _pairs(layout, reader, best.tolist(), scores)
    return step


def extreme(values: NDArray[np.float64], most: int = EXAMPLES) -> NDArray[np.int64]:
    """Return where the lowest `most` values are, lowest first; of equal ones the first."""
    if len(values) <= most:
        return np.argsort(values, kind="stable")
    near = np.flatnonzero(values <= np.partition(values, most)[most])
    return near[np.argsort(values[near], kind="stable")[:most]]


def _pairs(layout: Layout, reader: Reader, numbers: Sequence[int], scores: NDArray[np.float32]) -> list[Example]:
    """Return samples to look at, each with the caption that its score is of."""
    found = []
    for number in numbers:
        chunk, row = divmod(number, layout.chunk)
        sample, note = Sample(reader, number), f"{SCORE} {scores[number]:.4f}"
        try:
            captions = sample.captions
            caption = captions[min(layout.scored(chunk)[1][row], len(captions) - 1)]
            found.append(example(sample.key, caption, sample.image, note))
        except BadSampleError as error:  # it could be read before
            found.append(Example(sample.key, "", f"{note}; now {error.reason}"))
    return found
