"""`contrastive data balance`: samples drawn so that captions are spread over a list of entries."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive.data.pool import storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import ConfigError
from contrastive.files import sha256, write_whole
from contrastive.recipes.curation import balance_entries
from contrastive.recipes.curation.balance import (
    NO_ENTRY,
    NOT_DRAWN,
    SCORES,
    Draws,
    Matching,
    probabilities,
    tail_threshold,
)
from contrastive.recipes.curation.balance_report import ENTRIES, Balance
from contrastive.recipes.curation.filter_text import Phrases, read_phrases, spaced
from contrastive.recipes.curation.passes import Columns, Numbers, Parts
from contrastive.recipes.curation.tally import Tally
from contrastive.recipes.engine import Engine
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import VERDICTS, Step
from contrastive.runs.filtering import PARTS, written
from contrastive.runs.opening import open_shards
from contrastive.runs.steps import command_line, conclude, new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine

TAKEN = "entries.txt"  # the entries that were taken from the captions


class Balancing(NamedTuple):
    """How to balance: a list of entries, or how many to take from the captions; and `t`, or the tail's share."""

    entries: Path | None = None
    entries_from_captions: int | None = None
    t: int | None = None
    tail_share: float | None = None
    seed: int = 0
    keep_unmatched: bool = False


def balance_shards(
    config: Config, how: Balancing, out: Path, *, processes: int | None = None, engine: str = "local"
) -> int:
    """Draw samples and write verdicts, entries and a report; return 0. A run that was killed goes on where it was.

    Raises:
        ConfigError, DataError: an option, the entries or the shards cannot be used.
    """
    _check(how)
    new_folder(out)
    given = None if how.entries is None else read_phrases(how.entries)
    pool = open_shards(config, processes=processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    with open_engine(engine, processes) as workers:
        names = given or _taken(reader, how, workers, out)
        entries = balance_entries.phrases(names)
        said = _provenance(how, entries)
        parts = Parts(out / PARTS, {"entries": said["entries_digest"], "fingerprint": pool.fingerprint})
        with CountLine("matching captions") as progress:
            before = np.zeros(len(entries), np.int64)
            for _, found in parts.passed(Matching(entries), reader, workers, progress):
                before += np.bincount(found["entry"], minlength=len(entries))
        t = how.t if how.t is not None else tail_threshold(before, how.tail_share or 0.0)
        drawing = _Drawing(Draws(entries.names, probabilities(before, t), how.seed), how.keep_unmatched)
        passed = parts.passed(Matching(entries), reader, workers)  # all of it is known by now
        limits: dict[str, float | None] = dict.fromkeys(SCORES)
        tally = written(out / VERDICTS, reader, {**said, "t": t}, limits, drawing.over(passed))
    done = Balance(entries.names, before, drawing.after, t, drawing.expected, drawing.unmatched)
    done.write(out)
    conclude(_report(tally, done, reader, {**said, "t": t}, out), out)
    parts.end()
    return 0


class _Drawing:
    """Makes verdicts of matches, and counts the matches of what is kept."""

    def __init__(self, draws: Draws, keep_unmatched: bool) -> None:
        self.draws, self.keep_unmatched = draws, keep_unmatched
        self.after = np.zeros(len(draws.probability), np.int64)
        self.expected, self.unmatched = 0.0, 0

    def over(self, passed: Iterator[tuple[Numbers, Columns]]) -> Iterator[tuple[Numbers, Columns]]:
        """Yield each part's samples with their `reason` and `scores`."""
        for numbers, found in passed:
            drawn = self.draws(found)
            is_read, is_matched = found["reason"] == "", found["count"] > 0
            reasons = np.where(
                is_matched, np.where(drawn.is_kept, "", NOT_DRAWN), "" if self.keep_unmatched else NO_ENTRY
            )
            is_kept = np.repeat(drawn.is_kept, found["count"])
            self.after += np.bincount(found["entry"][is_kept], minlength=len(self.after))
            self.expected += float(drawn.probability.sum())
            self.unmatched += int((is_read & ~is_matched).sum())
            chance = np.where(is_matched, drawn.probability, float(self.keep_unmatched))
            scores = np.stack([found["count"], chance], axis=1).astype(np.float32)
            scores[~is_read] = np.nan
            yield numbers, {"reason": np.where(is_read, reasons, found["reason"]), "scores": scores}


def _check(how: Balancing) -> None:
    if (how.entries is None) == (how.entries_from_captions is None):
        raise ConfigError("balance: give one of --entries FILE and --entries-from-captions N")
    if (how.t is None) == (how.tail_share is None):
        raise ConfigError("balance: give one of --t N and --tail-share SHARE")
    if how.t is not None and how.t < 1:
        raise ConfigError(f"--t {how.t}: must be at least 1; it is how many samples an entry should keep")
    if how.tail_share is not None and not 0 < how.tail_share <= 1:
        raise ConfigError(f"--tail-share {how.tail_share:g}: must be more than 0 and at most 1")
    if how.seed < 0:
        raise ConfigError(f"--seed {how.seed}: must not be negative")


def _taken(reader: Reader, how: Balancing, workers: Engine, out: Path) -> list[str]:
    assert how.entries_from_captions is not None, "checked before"
    with CountLine("reading captions") as progress:
        found = balance_entries.entries_from_captions(reader, how.entries_from_captions, workers, progress)
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in found]
    write_whole(out / TAKEN, "".join(f"{name}\n" for name in names))
    return names


def _provenance(how: Balancing, entries: Phrases) -> dict[str, Any]:
    source: dict[str, Any] = {"entries_from_captions": how.entries_from_captions}
    if how.entries is not None:
        source = {"entries": str(how.entries), "sha256": sha256(how.entries)}
    digest = hashlib.sha256("\n".join(entries.names).encode()).hexdigest()
    return {
        "step": "balance",
        **source,
        "entries_digest": digest,
        "seed": how.seed,
        "keep_unmatched": how.keep_unmatched,
    }


def _report(tally: Tally, done: Balance, reader: Reader, provenance: Mapping[str, Any], out: Path) -> Step:
    entries = balance_entries.phrases(done.names)
    return Step(
        title="Balance",
        command=command_line(),
        samples=sum(tally.counts.values()),
        kept=tally.kept,
        dropped=tally.dropped,
        figures=done.figures(),
        histograms={**done.histograms(), **tally.histograms()},
        examples=tally.examples(reader, lambda sample: _note(sample, entries, done)),
        notes=[
            f"{out / ENTRIES}: all entries, with the samples that each matches before and after",
            f"leave out what was dropped: contrastive data subset SHARDS --list {out / VERDICTS}",
        ],
        provenance={**provenance, "fingerprint": reader.pool.fingerprint},
    )


def _note(sample: Sample, entries: Phrases, done: Balance) -> str:
    """Return the entries of a sample, each with the probability that it keeps it."""
    try:
        found = {number for caption in sample.captions for number in entries.found(spaced(caption))}
    except BadSampleError as error:
        return error.message
    chances = probabilities(done.before, done.t)
    return ", ".join(f"{entries.names[number]} {chances[number]:.3g}" for number in sorted(found))
