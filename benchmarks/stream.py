"""The data pipeline beside open_clip's own: processor time per sample, by stage too, and what a resume costs.

    python benchmarks/stream.py --quick
    python benchmarks/stream.py --folder PHOTOS --json out.json   # a folder of real JPEGs

Both read the same tars with the same batch and number of workers, and crop and resize to 224 as open_clip's default
training transform does (RandomResizedCrop of 0.9 to 1.0 of the area, bicubic). They take turns, each time in a fresh
process; a ratio compares neighbours in time, and the median over rounds is shown. Processor time counts the main
process and all workers. Ours leaves uint8 images, which the step normalises on the device; the row `normalised` does
that too, on this processor. Pixels are compared with Pillow's of the same crops. Exit status 1: a goal was missed.
Status 2: the benchmark itself failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from stream_shards import make
from trainers import ROOT, BenchmarkError, peer_environment

GOALS = {"ratio_orig": 3.0, "ratio_r256": 3.8}
LIMITS = {"pixels_off": 1e-4, "resume_seconds": 2.0, "resume_mib": 500.0}
KINDS, WAYS = ("orig", "r256"), ("open_clip", "ours", "normalised")  # the last is left out of a quick run
LAYOUTS = {"whole set": ("1", "none"), "128 lanes x 4,096": ("128", "4096")}
STAGES = ("read", "decode", "crop and resize", "normalise", "tokenise", "collate")
Answers = dict[str, list[dict[str, float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        peer = peer_environment(options.cache / "open_clip", console)
        folders = make(options.cache / "stream", options.folder)
        turns = {kind: take_turns(folders[kind], options, peer, console) for kind in KINDS}
        stages = {kind: stage_times(folders[kind], peer) for kind in KINDS} if not options.quick else {}
        pixels = ask(["pixels", *(str(folders[kind]) for kind in KINDS)])
        layouts = dict(list(LAYOUTS.items())[-1:]) if options.quick else LAYOUTS
        resumes = {name: ask(["resume", *layout]) for name, layout in layouts.items()}
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    out = Console()
    for table in (turn_table(turns), *(stage_table(kind, found) for kind, found in stages.items())):
        out.print(table)
    out.print(other_table(pixels, resumes))
    found = figures(turns, pixels, resumes)
    if options.json:
        options.json.write_text(json.dumps(record(found, turns, stages, pixels, resumes, options), indent=1) + "\n")
    missed = misses(found)
    for name in missed:
        console.print(f"goal missed: {name} = {found[name]:.4g}", style="red")
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))
    return 1 if missed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, no table by stage: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    parser.add_argument("--folder", type=Path, help="JPEGs to read (default: cut from scikit-learn's two photographs)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60, help="batches that are measured, after as many / 2 to warm up")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "benchmarks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.steps = 1, 14
    return options


def take_turns(folder: Path, options: argparse.Namespace, peer: Path, console: Console) -> Answers:
    """Return each way's answers, one a round."""
    found: Answers = {way: [] for way in (WAYS[:2] if options.quick else WAYS)}
    numbers = [str(n) for n in (options.workers, options.batch_size, options.steps // 2, options.steps)]
    for number in range(options.rounds):
        for way in found:
            found[way].append(ask([way, str(folder), *numbers], peer if way == "open_clip" else None))
        ratio = found["open_clip"][-1]["cpu"] / found["ours"][-1]["cpu"]
        console.print(f"{folder.name}, round {number + 1}/{options.rounds}: ratio {ratio:.2f}")
    return found


def stage_times(folder: Path, peer: Path) -> Answers:
    """Return microseconds by stage, open_clip's and ours."""
    rest = [str(folder), "0", "1", "0", "0"]
    return {"open_clip": [ask(["stages_open_clip", *rest], peer)], "ours": [ask(["stages_ours", *rest])]}


def ask(arguments: Sequence[str], packages: Path | None = None) -> dict[str, Any]:
    """Return the answer of a measurement in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    command = [sys.executable, str(Path(__file__).with_name("stream_worker.py")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def ratios(turns: Answers, way: str = "ours") -> list[float]:
    """Return open_clip's processor time over that of `way`, round by round."""
    return [theirs["cpu"] / own["cpu"] for theirs, own in zip(turns["open_clip"], turns[way], strict=True)]


def figures(
    turns: dict[str, Answers], pixels: dict[str, dict[str, float]], resumes: dict[str, dict[str, float]]
) -> dict[str, float]:
    """Return the last line's figures."""
    found = {f"ratio_{kind}": median(ratios(one)) for kind, one in turns.items()}
    wholly = {kind: one for kind, one in turns.items() if "normalised" in one}
    found |= {f"ratio_normalised_{kind}": median(ratios(one, "normalised")) for kind, one in wholly.items()}
    found["pixels_max"] = max(one["max"] for one in pixels.values())
    found["pixels_off"] = max(one["above_one"] for one in pixels.values())
    found["resume_seconds"] = max(one["seconds"] for one in resumes.values())
    found["resume_mib"] = max(one["mib"] for one in resumes.values())
    return found


def misses(found: dict[str, float]) -> list[str]:
    """Return the figures that miss their goals."""
    low = [name for name, goal in GOALS.items() if found[name] < goal]
    return low + [name for name, limit in LIMITS.items() if not found[name] <= limit]


def turn_table(turns: dict[str, Answers]) -> Table:
    """Return processor and clock time of each way."""
    grid = Table(title="Microseconds per sample, medians over rounds")
    for heading in ("source", "pipeline", "processors", "of it main process", "clock", "ratio (rounds)"):
        grid.add_column(heading, justify="left" if heading in ("source", "pipeline") else "right")
    for kind, found in turns.items():
        for way in found:
            middle = [f"{median(one[name] for one in found[way]):,.0f}" for name in ("cpu", "main", "clock")]
            own = ratios(found, way)
            spread = f"{median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
            grid.add_row(kind, way, *middle, "" if way == "open_clip" else spread)
    return grid


def stage_table(kind: str, found: Answers) -> Table:
    """Return microseconds by stage."""
    grid = Table(title=f"{kind}: microseconds per sample by stage, one thread")
    for heading in ("stage", "open_clip", "ours"):
        grid.add_column(heading, justify="left" if heading == "stage" else "right")
    theirs, own = found["open_clip"][0], found["ours"][0]
    for stage in STAGES:
        grid.add_row(stage, f"{theirs[stage]:,.0f}", f"{own[stage]:,.0f}")
    grid.add_row("sum", f"{sum(theirs.values()):,.0f}", f"{sum(own.values()):,.0f}", style="bold")
    return grid


def other_table(pixels: dict[str, dict[str, float]], resumes: dict[str, dict[str, float]]) -> Table:
    """Return pixels and resumes."""
    grid = Table("what", "figure", title="Pixels against Pillow, and the first batch at position 10^9 of 10^5 shards")
    for kind, one in pixels.items():
        off = f"off by more than one level {one['above_one'] * 1e6:.1f} of a million values"
        said = f"mean difference {one['mean']:.4f} of 255, largest {one['max']:.0f}; {off}"
        grid.add_row(f"pixels of {kind}", said)
    for name, one in resumes.items():
        said = f"{one['seconds']:.2f} s, {one['mib']:.0f} MiB beyond the imports ({one['total_mib']:.0f} with them)"
        grid.add_row(f"resume, {name}", said)
    return grid


def record(found: dict[str, float], *parts: Any) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    turns, stages, pixels, resumes, options = parts
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("json", "cache", "folder")}
    settings["photographs"] = "scikit-learn's" if options.folder is None else options.folder.name
    packages = ("torch", "torchvision", "pillow", "open_clip_torch", "simplejpeg")
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": found, "goals": GOALS, "limits": LIMITS, "turns": turns,
        "stages": stages, "pixels": pixels, "resume": resumes, "settings": settings,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), **{n: version(n) for n in packages}},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
