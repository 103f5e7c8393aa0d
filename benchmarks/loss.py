"""Contrastive losses side by side: time, memory and gradient error of one forward and backward pass.

    python benchmarks/loss.py --quick                 # N = 4,096 and 8,192: under a minute
    python benchmarks/loss.py --json out.json         # N = 4,096 to 65,536, one process and two
    python benchmarks/loss.py --device cuda           # N = 32,768 to 1,048,576, bf16 features

Every loss at every size has a process of its own, which first reports by how much its memory grew at the peak of one
pass. Then the processes take turns, A B A B and back, so that a ratio to open_clip compares neighbours in time; the
median over rounds is shown. The CPU ratio counts the processor time of all threads: it holds where the machine also
does other work. `error` is the relative error of image gradients, `scale error` that of the gradient of `logit_scale`
(and `logit_bias`), against float64, at scales 1/0.07 and 100. What would not fit in memory, cannot run here or fails
is a row with a reason. Exit status 1: a goal was missed. Status 2: the benchmark itself failed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from loss_peers import BASELINE, IMPLEMENTATIONS, PACKAGES
from loss_report import Row, figures, last_line, record, tables, verdicts
from loss_turns import SCALES, Bench, Group, measure
from rich.console import Console
from trainers import ROOT, BenchmarkError, peer_environment

QUICK_NAMES = (BASELINE, "ours", "chunked")  # above N = 4,096


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    started = time.perf_counter()
    rows: list[Row] = []
    try:
        if options.device == "cpu" and not Path("/proc/self/clear_refs").exists():
            raise BenchmarkError("--device cpu: the memory of a pass is measured on Linux only")
        peers, missing = _peers(options.cache, console)
        with tempfile.TemporaryDirectory() as scratch:
            places = (peers, Path(scratch))
            bench = Bench(options.device, options.dim, options.threads, *places, options.timeout, missing)
            for group in groups(options):
                rows += measure(group, bench)
                console.print(f"{group.loss} N = {group.n}, world size {group.world_size}: done after "
                              f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    return report(rows, options, console)


def _peers(folder: Path, console: Console) -> tuple[Path, str]:
    """Return the folder of the packages, and why it is not there if so: their rows say it, the others are measured."""
    try:
        return peer_environment(folder, console, PACKAGES), ""
    except BenchmarkError as error:
        return folder, str(error).strip().splitlines()[-1]


def report(rows: Sequence[Row], options: argparse.Namespace, console: Console) -> int:
    """Print tables, goals and figures; return the exit status."""
    wide = Console(width=max(Console().width, 150))
    for table in tables(rows, options.device, options.dim):
        wide.print(table)
    found = figures(rows)
    missed, unjudged = verdicts(found, rows)
    if unjudged:
        print(f"not judged, since their sizes did not run: {', '.join(unjudged)}")
    for line in missed:
        console.print(f"goal missed: {line}", style="red", markup=False, soft_wrap=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        options.json.write_text(json.dumps(record(rows, settings), indent=1) + "\n")
    print(last_line(found), flush=True)
    return 1 if missed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({name for table in IMPLEMENTATIONS.values() for name in table})
    parser.add_argument("--quick", action="store_true", help="InfoNCE at N = 4,096 and 8,192, sigmoid at 8,192: rough")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--loss", nargs="+", choices=sorted(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    parser.add_argument("--sizes", nargs="+", type=_positive, metavar="N", help="these, and not the default ones")
    parser.add_argument("--only", nargs="+", choices=names, help="these implementations (default: all)")
    parser.add_argument("--world-size", nargs="+", type=_positive, metavar="W", help="default 1 2 (--quick, cuda: 1)")
    parser.add_argument("--rounds", type=_positive, help="default: fewer for larger N")
    parser.add_argument("--dim", type=_positive, default=512)
    parser.add_argument("--threads", type=_positive, default=cores, help="of one process (default: cores; 1 for W > 1)")
    parser.add_argument("--exact-at-all", action="store_true", help="gradient errors at the large sizes too")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/benchmarks/losses", help="the peers' packages")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="for one answer (default 900)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    options = parser.parse_args(arguments)
    if options.world_size is None:
        options.world_size = [1] if options.quick or options.device == "cuda" else [1, 2]
    if options.device == "cuda" and options.world_size != [1]:
        parser.error("--world-size: on a GPU only one process is measured")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def groups(options: argparse.Namespace) -> list[Group]:
    """Return what is measured, in the order of the tables."""
    found = []
    for world_size in options.world_size:
        for loss in options.loss:
            for n in options.sizes or _sizes(loss, world_size, options):
                names = tuple(name for name in IMPLEMENTATIONS[loss] if _takes_part(name, loss, n, world_size, options))
                rounds = options.rounds or _rounds(n, options)
                found.append(Group(loss, n, names, rounds, world_size, _scales(n, options)))
    return [group for group in found if group.names]


def _takes_part(name: str, loss: str, n: int, world_size: int, options: argparse.Namespace) -> bool:
    if options.only and name not in options.only:
        return False
    if world_size > 1 and not IMPLEMENTATIONS[loss][name].ranks:
        return False
    if options.sizes or options.device == "cuda":
        return True
    return name in QUICK_NAMES if options.quick and n > 4096 else n <= 32768 or name == "ours"


def _sizes(loss: str, world_size: int, options: argparse.Namespace) -> list[int]:
    if options.device == "cuda":
        return [2**power for power in ((15, 16, 17, 18, 20) if loss == "infonce" else (15, 16, 17))]
    if world_size > 1:
        return [8192]
    if options.quick:
        return [4096, 8192] if loss == "infonce" else [8192]
    return [4096, 8192, 16384] + ([32768, 65536] if loss == "infonce" else [])


def _rounds(n: int, options: argparse.Namespace) -> int:
    """Return how often all take their turns, after the pass that measures memory; 0: that pass is also timed."""
    if options.device == "cuda":
        return 5 if n <= 2**17 else 1
    if options.quick:
        return 2 if n <= 4096 else 1
    return next(rounds for size, rounds in ((8192, 3), (16384, 2), (n, 0)) if n <= size)


def _scales(n: int, options: argparse.Namespace) -> tuple[str, ...]:
    """Return at which scales gradients are compared: the first costs a sweep in float64, others a pass of each too."""
    both, first = (2**16, 2**17) if options.device == "cuda" else (4096 if options.quick else 8192, 16384)
    if options.exact_at_all or n <= both:
        return tuple(SCALES)
    return ("14",) if n <= first else ()


if __name__ == "__main__":
    sys.exit(main())
