"""`contrastive data filter`: which samples keep to rules, as a list that other steps apply."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.data.pool import storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.recipes.curation.filter_rules import Rule, build_judge, check_rules, digests
from contrastive.recipes.curation.filtering import Judge
from contrastive.recipes.curation.passes import Columns, Numbers, Parts, over_spans
from contrastive.recipes.curation.tally import Tally
from contrastive.recipes.looking import spread
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import VERDICTS, Step
from contrastive.recipes.verdicts import Verdict, Verdicts, writing_verdicts
from contrastive.runs.opening import open_shards
from contrastive.runs.steps import command_line, conclude, new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine

PARTS = ".parts"


def filter_shards(
    config: Config,
    rules: Sequence[Rule],
    out: Path,
    *,
    sample: int | None = None,
    processes: int | None = None,
    engine: str = "local",
    notes: Sequence[str] = (),
) -> int:
    """Judge every sample by the rules and write verdicts and a report; return 0.

    With `sample` so many samples, evenly spread, are judged for a report alone. A run that was killed goes on where it
    was when it is started again. `notes` are shown with the report.

    Raises:
        ConfigError, DataError: a rule, a file or the shards cannot be used.
    """
    check_rules(rules)
    new_folder(out)
    pool = open_shards(config, processes=processes)
    judge = build_judge(rules, pool)
    provenance = {"step": "filter", "rules": [dict(rule.spec) for rule in rules], "files": digests(rules)}
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    with open_engine(engine, processes) as workers, CountLine("filtering samples") as progress:
        if sample:
            numbers = spread(len(pool), sample)
            tally = Tally(len(numbers), judge.scores)
            for these, found in over_spans(judge, reader, numbers, workers, progress):
                tally.add(these, found["reason"], found["scores"])
            conclude(_report(tally, judge, reader, provenance, notes), out)
            return 0
        parts = Parts(out / PARTS, {**provenance, "fingerprint": pool.fingerprint})
        passed = parts.passed(judge, reader, workers, progress)
        tally = written(out / VERDICTS, reader, provenance, judge.scores, passed)
    step = _report(tally, judge, reader, provenance, notes)
    step.notes.append(f"leave out what was dropped: contrastive data subset SHARDS --list {out / VERDICTS}")
    conclude(step, out)
    parts.end()
    return 0


def written(
    path: Path,
    reader: Reader,
    provenance: Mapping[str, Any],
    limits: Mapping[str, float | None],
    passed: Iterable[tuple[Numbers, Columns]],
) -> Tally:
    """Write what a step found of all samples as verdicts, and return it counted.

    `passed` are parts of the samples with `reason`, text [B], and `scores`, float32 [B, S] in the order of the limits.
    """
    tally, names = Tally(len(reader.pool), limits), tuple(limits)
    with writing_verdicts(path, reader.pool, provenance, names) as verdicts:
        for numbers, found in passed:
            tally.add(numbers, found["reason"], found["scores"])
            _add(verdicts, numbers, found, names)
    return tally


def _add(verdicts: Verdicts, numbers: Numbers, found: Columns, names: Sequence[str]) -> None:
    rows = zip(numbers.tolist(), found["reason"].tolist(), found["scores"].tolist(), strict=True)
    for number, reason, scores in rows:
        verdicts.add(Verdict(number, reason, dict(zip(names, scores, strict=True))))


def _report(tally: Tally, judge: Judge, reader: Reader, provenance: Mapping[str, Any], notes: Sequence[str]) -> Step:
    counts = tally.counts
    limits = {f"limit of {name}": round(limit, 6) for name, limit in judge.scores.items() if limit is not None}
    order = (
        "rules are asked in their order; a sample counts under the first that drops it, and later scores are unknown"
    )
    return Step(
        title="Filter",
        command=command_line(),
        samples=sum(counts.values()),
        kept=tally.kept,
        dropped=tally.dropped,
        figures=dict(limits),
        histograms=tally.histograms(),
        examples=tally.examples(reader, lambda sample: _note(judge, sample)),
        notes=[*notes, order],
        provenance={**provenance, "fingerprint": reader.pool.fingerprint},
    )


def _note(judge: Judge, sample: Sample) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in judge.judge(sample).scores.items())
