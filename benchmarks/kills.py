"""SIGKILL at random moments: does a run that goes on end where the uninterrupted one does, bit by bit?

    python benchmarks/kills.py --quick           # a tiny run, killed twice: under a minute
    python benchmarks/kills.py --json out.json   # configs/glyphs.yaml, shortened; 20 runs, each killed once: 30 minutes

A run is trained without interruption. Then it is trained again and again, in fresh directories: the launcher and all
ranks are killed together (SIGKILL) at a moment drawn uniformly from the whole duration, so that start-up, steps, saves
and evaluations are all hit, and the same command goes on. At the end SHA-256 over every tensor of the last checkpoint
(weights, optimizer, moving average, random states), its position in the data and the results of the evaluation are
compared with those of the uninterrupted run. A run that ends before its kill comes is not counted, another one takes
its place. `--each 3` kills a run three times, each time at a moment of what it has left.

The moments are drawn by a seeded generator; what they hit depends on the machine. Exit status 1: a run ended elsewhere.
Its directory stays. Status 2: a run failed.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kills_runs import Course, Launched, digest, glyphs, newest, stage, steps_done, tiny
from rich.console import Console
from rich.table import Table
from trainers import ROOT, BenchmarkError


@dataclass(frozen=True)
class Kill:
    """One kill: seconds after the launch, what it hit, the last logged step, the newest checkpoint that was left."""

    run: int
    second: float
    stage: str
    step: int
    checkpoint: int


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run: its seconds, those before its first step, and what it ended with."""

    seconds: float
    start_seconds: float
    digest: dict[str, str]

    def left(self, share: float) -> float:
        """Return what a launch takes that goes on when `share` of the steps are saved, in seconds."""
        return self.start_seconds + (1 - share) * (self.seconds - self.start_seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and compare; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=options.folder, prefix="kills-"))
    try:
        course = (tiny if options.quick else glyphs)(scratch, options.processes, options.timeout)
        reference = uninterrupted(course)
        console.print(
            f"uninterrupted: {reference.seconds:.0f} s, {reference.start_seconds:.0f} s before the first step"
        )
        runs = list(killed_runs(course, reference, options, console))
    except (BenchmarkError, OSError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    kills = [kill for own, _ in runs for kill in own]
    different = {number: parts for number, (_, parts) in enumerate(runs, start=1) if parts}
    Console(width=110).print(table(kills, different))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = record(course, reference, kills, different, options)
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if different:
        console.print(f"what differs is in {scratch}")
    else:
        shutil.rmtree(scratch)
    print(last_line(kills, different, reference), flush=True)
    return 1 if different else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` changes the defaults of `--kills` and `--each`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model on made-up data, killed twice")
    parser.add_argument("--kills", type=_positive, help="default 20 (--quick: 2)")
    parser.add_argument("--each", type=_positive, help="kills of one run, default 1 (--quick: 2)")
    parser.add_argument("--processes", type=_positive, default=2, help="of a run (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="for one launch (default 900)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/benchmarks", help="where the runs lie meanwhile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    options = parser.parse_args(arguments)
    options.kills = options.kills or (2 if options.quick else 20)
    options.each = options.each or (2 if options.quick else 1)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def uninterrupted(course: Course) -> Reference:
    """Train once to the end."""
    run, began = course.folder / "uninterrupted", time.perf_counter()
    with Launched(course, run) as launched:
        while not steps_done(run) and not launched.ends_within(0.1):
            pass
        start_seconds = time.perf_counter() - began
        launched.finish()
    return Reference(time.perf_counter() - began, start_seconds, digest(course, run))


def killed_runs(
    course: Course, reference: Reference, options: argparse.Namespace, console: Console
) -> Iterator[tuple[list[Kill], list[str]]]:
    """Yield the kills of each run and in what it differs from the uninterrupted one, until there are enough kills.

    Raises:
        BenchmarkError: a launch failed, or too many runs ended before they were killed.
    """
    moments, count, number, idle = random.Random(options.seed), 0, 0, 0
    while count < options.kills:
        number += 1
        run = course.folder / f"killed-{number}"
        kills = kill_often(course, run, number, reference, min(options.each, options.kills - count), moments)
        idle = 0 if kills else idle + 1
        if idle == 5:
            raise BenchmarkError("five runs in turn ended before they were killed: is the machine much faster now?")
        with Launched(course, run) as launched:
            launched.finish()
        found = digest(course, run)
        different = [part for part in reference.digest if found.get(part) != reference.digest[part]]
        if not different:
            shutil.rmtree(run)
        if kills or different:
            count += len(kills)
            console.print(
                f"{count}/{options.kills} {_told(kills)}: {_outcome(different)}", markup=False, highlight=False
            )
            yield kills, different
        else:
            number -= 1


def kill_often(
    course: Course, run: Path, number: int, reference: Reference, count: int, moments: random.Random
) -> list[Kill]:
    """Launch a run `count` times and kill it each time, unless it ends before; return the kills that there were."""
    kills = []
    for _ in range(count):
        second = moments.uniform(0, reference.left(newest(run) / course.steps))
        began = time.time()
        with Launched(course, run) as launched:
            if launched.ends_within(second):
                launched.finish()
                break
            launched.kill()
        kills.append(Kill(number, second, stage(course, run, began), steps_done(run), newest(run)))
        if kills[-1].checkpoint == course.steps:
            break  # nothing is left to be done
    return kills


def _told(kills: Sequence[Kill]) -> str:
    return ", ".join(f"{kill.second:.1f} s {kill.stage} at step {kill.step}" for kill in kills)


def _outcome(different: Sequence[str]) -> str:
    return f"DIFFERENT: {', '.join(different)}" if different else "identical"


def table(kills: Sequence[Kill], different: dict[int, list[str]]) -> Table:
    """Return a line a kill."""
    grid = Table(title=f"{len(kills)} kills by SIGKILL")
    for heading in ("kill", "run", "second", "hit", "last logged step", "resumed from", "ends"):
        grid.add_column(heading, justify="left" if heading in ("hit", "ends") else "right")
    for number, kill in enumerate(kills, start=1):
        values = (f"{kill.second:.1f}", kill.stage, str(kill.step), str(kill.checkpoint))
        grid.add_row(str(number), str(kill.run), *values, _outcome(different.get(kill.run, [])))
    return grid


def last_line(kills: Sequence[Kill], different: dict[int, list[str]], reference: Reference) -> str:
    """Return `name=value` figures on one line, for scripts."""
    identical = sum(kill.run not in different for kill in kills)
    runs = len({kill.run for kill in kills})
    return f"kills={len(kills)} identical={identical} runs={runs} uninterrupted_seconds={reference.seconds:.1f}"


def record(
    course: Course,
    reference: Reference,
    kills: Sequence[Kill],
    different: dict[int, list[str]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    return {
        "date": time.strftime("%Y-%m-%d"), "kills": [asdict(kill) for kill in kills], "different": different,
        "uninterrupted": asdict(reference), "configuration": list(course.configuration), "seed": options.seed,
        "processes": course.processes, "steps": course.steps, "torch": version("torch"),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
