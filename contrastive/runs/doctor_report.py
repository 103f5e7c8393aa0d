"""What `contrastive data doctor` says: a table of facts, the findings in their order, and the same as a page."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from contrastive.data.loader import SHARED
from contrastive.data.stream import BadSampleError, Reader
from contrastive.recipes.bench import Bench
from contrastive.recipes.doctor import Finding, RunFacts, ShardFacts, gigabytes, interval
from contrastive.recipes.doctor_look import Look, Looked
from contrastive.recipes.doctor_pace import Disk, Download, Memory, Pace, shown_hours
from contrastive.recipes.doctor_samples import Images
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import REPORT, Example, Step, chosen, example, histogram
from contrastive.report.step_page import write_step_page
from contrastive.runs.opening import console, write_figures
from contrastive.runs.steps import PAGE, command_line

NOTHING = "Nothing to fix."


@dataclass(frozen=True)
class Examined:
    """All facts; None where something could not be measured or does not apply."""

    run: RunFacts
    shards: ShardFacts
    looked: Looked
    reader: Reader
    images: Images
    memory: Memory
    parameters: int | None
    bytes: int  # of all shards
    index_bytes: int
    bench: Bench | None = None
    pace: Pace | None = None
    disk: Disk | None = None
    download: Download | None = None


def tell(seen: Examined, findings: Sequence[Finding], *, out: Path | None, json: Path | None) -> None:
    """Print facts and findings, and write them where the user asked for it."""
    screen, facts = console(), dict(facts_of(seen))
    grid = Table("", "", title="Doctor", show_header=False, title_justify="left")
    for name, value in facts.items():
        grid.add_row(name, value)
    screen.print(grid)
    for line in lines(findings):
        screen.print(line, soft_wrap=True, highlight=False, markup=False)
    if out is not None:
        _step(seen, findings, facts).write(out)
        screen.print(f"report: {write_step_page(out / REPORT, out / PAGE)}", soft_wrap=True, highlight=False)
    write_figures(json, {**figures(seen), "findings": [asdict(one) for one in findings]})


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the findings as text, numbered in their order."""
    if not findings:
        yield NOTHING
        return
    yield "What to fix, in order of gain:"
    for number, one in enumerate(findings, 1):
        yield f"{number}. {one.severity}: {one.what}"
        yield f"   {one.gain}"
        yield f"   -> {one.fix}"


def facts_of(seen: Examined) -> Iterator[tuple[str, str]]:
    """Yield what was found, each with its name."""
    shards, run, pool = seen.shards, seen.run, seen.reader.pool
    looked_at = len(seen.looked.good) + len(seen.looked.bad)
    low, high = interval(len(seen.looked.bad), looked_at)
    yield "samples", f"{len(pool):,} in {len(shards.counts):,} shards, {gigabytes(seen.bytes)}"
    yield "looked at", f"{looked_at:,}; not usable {len(seen.looked.bad):,} (95 %: {low:.2%} to {high:.2%})"
    if seen.looked.good:
        side, tokens = seen.images.short_side, [one.tokens for one in seen.looked.good]
        yield "shorter side", f"median {np.median(side):,.0f} pixels; the model's input has {seen.images.size}"
        yield "captions", f"median {np.median(tokens):,.0f} tokens of {seen.looked.context_length}"
    epochs = run.total_samples / shards.epoch_samples
    steps = -(-run.total_samples // run.global_batch_size)
    yield (
        "run",
        f"{steps:,} steps of {run.global_batch_size:,} samples, {epochs:,.1f} epochs of {shards.epoch_samples:,}",
    )
    yield from _pace(seen)
    yield from _machine(seen)


def _pace(seen: Examined) -> Iterator[tuple[str, str]]:
    pace = seen.pace
    if pace is None or seen.bench is None:
        yield "speed", "not measured"
        return
    run = seen.run
    yield "one core", f"{pace.per_core:,.0f} samples/s; what limits is {seen.bench.limit}"
    readers = f"{run.ranks} x {run.workers} workers" if run.workers else f"{run.ranks} processes without workers"
    yield "data", f"{pace.data:,.0f} samples/s from {readers} on {pace.cores} cores"
    if pace.model is None:
        yield "model", "its speed is not known; give --step-seconds for what limits and the workers that are needed"
    else:
        which = "data" if pace.is_data_limiting else "model"
        yield (
            "model",
            f"{pace.model:,.0f} samples/s; the {which} limit; {pace.workers_needed} workers a process keep it busy",
        )
    bound = " at least" if pace.model is None else ""
    yield "time", f"an epoch{bound} {shown_hours(pace.epoch_hours)}, the run{bound} {shown_hours(pace.run_hours)}"


def _machine(seen: Examined) -> Iterator[tuple[str, str]]:
    memory, run = seen.memory, seen.run
    if run.workers:
        free = "" if memory.shared_free is None else f"; {gigabytes(memory.shared_free)} are free"
        yield SHARED, f"{gigabytes(memory.batch * memory.slots * run.ranks)} for {memory.slots} batches{free}"
    worker = "" if memory.worker is None else f"{gigabytes(memory.worker)} for each worker, "
    free = "" if memory.available is None else f"{gigabytes(memory.available)} are free"
    yield "memory", f"{worker}{gigabytes(seen.index_bytes)} of index, {free}"
    if seen.disk is not None:
        disk = seen.disk
        each = f"{disk.count} checkpoints of {gigabytes(disk.checkpoint)}"
        yield "disk", f"{gigabytes(disk.needed)} for {each}; {gigabytes(disk.free)} are free at {disk.folder}"
    if seen.download is not None:
        yield "network", f"{gigabytes(seen.download.bytes)} over the run"


def figures(seen: Examined) -> dict[str, Any]:
    """Return the facts as numbers."""
    pace, bad = seen.pace, seen.looked.bad_facts(len(seen.reader.pool))
    return {
        "samples": bad.samples,
        "shards": len(seen.shards.counts),
        "bytes": seen.bytes,
        "epoch_samples": seen.shards.epoch_samples,
        "not usable": dict(seen.shards.unusable),
        "damaged": dict(seen.shards.damaged),
        "looked_at": bad.looked_at,
        "bad": dict(bad.reasons),
        "bad_share": [bad.share, *interval(bad.bad, bad.looked_at)],
        "captions": asdict(seen.looked.captions()),
        "samples_per_second_and_core": pace and pace.per_core,
        "data_samples_per_second": pace and pace.data,
        "samples_per_second": pace and pace.samples_per_second,
        "workers_needed": pace and pace.workers_needed,
        "data_limits": pace and (None if pace.model is None else pace.is_data_limiting),
        "epoch_hours": pace and pace.epoch_hours,
        "run_hours": pace and pace.run_hours,
        "steps": -(-seen.run.total_samples // seen.run.global_batch_size),
        "parameters": seen.parameters,
        "memory": asdict(seen.memory),
        "disk": seen.disk and {**asdict(seen.disk), "checkpoint": seen.disk.checkpoint, "needed": seen.disk.needed},
        "download_bytes": seen.download and seen.download.bytes,
    }


def _step(seen: Examined, findings: Sequence[Finding], facts: dict[str, str]) -> Step:
    bad = seen.looked.bad_facts(len(seen.reader.pool))
    found = Step(
        title="Doctor",
        command=command_line(),
        samples=bad.looked_at,
        kept=len(seen.looked.good),
        dropped=dict(bad.reasons),
        figures=dict(facts),
        notes=[f"{one.severity}: {one.what}. {one.gain}. Fix: {one.fix}" for one in findings] or [NOTHING],
        examples={name: shown for name, shown in _examples(seen).items() if shown},
        provenance={"step": "doctor", "fingerprint": seen.reader.pool.fingerprint},
    )
    if seen.looked.good:
        tokens = np.array([one.tokens for one in seen.looked.good])
        found.histograms = {
            "shorter side of the image, pixels": histogram(seen.images.short_side, seen.images.size),
            "tokens of the caption": histogram(tokens, seen.looked.context_length),
        }
    return found


def _examples(seen: Examined) -> dict[str, list[Example]]:
    """Return samples to look at: of each reason, of each kind that a finding may be about, and whole ones."""
    good, bad = seen.looked.good, seen.looked.bad
    found = {}
    for reason in dict.fromkeys(one.reason for one in bad):
        these = [one for one in bad if one.reason == reason]
        keys = [(seen.reader.pool.find(these[at].number).row.key, these[at]) for at in chosen(range(len(these)))]
        found[reason] = [Example(key, "", one.message) for key, one in keys]
    kinds = {
        "smaller than the model's input": seen.images.small.tolist(),
        "long and narrow": seen.images.narrow.tolist(),
        "captions that are cut": [one.is_cut for one in good],
        "samples": [True] * len(good),
    }
    for name, marks in kinds.items():
        these_are = [one for one, is_one in zip(good, marks, strict=True) if is_one]
        found[name] = [_shown(seen.reader, these_are[at]) for at in chosen(range(len(these_are)))]
    return found


def _shown(reader: Reader, one: Look) -> Example:
    sample, note = Sample(reader, one.number), f"{one.width} x {one.height} pixels, {one.tokens} tokens"
    try:
        return example(sample.key, one.caption, sample.image, note)
    except BadSampleError as error:  # the disk gave it a moment ago
        return Example(sample.key, one.caption, str(error))
