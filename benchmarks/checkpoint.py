"""What a save costs a training: ours, `torch.save`, Accelerate's `save_state` and torch's own asynchronous save.

    python benchmarks/checkpoint.py --quick           # a model of 21 million parameters: under a minute
    python benchmarks/checkpoint.py --json out.json   # open_clip's ViT-B-32, 151 million: ten minutes, 15 GB of disk

One process trains one model (AdamW, bf16) and saves it in each way in turn, while it goes on training. Of each save:
`stall`, how long the call holds the training up; `lost`, how much later the following steps end than they would have
without the save, stall included, until all that runs in the background has ended; `on disk`, when the save was whole
(for `torch.save` and `save_state`: in the kernel's memory, not yet on the disk); and how long a resume from it takes,
from the kernel's memory, as after a kill, and from the disk, as after a crash of the machine. Before anything counts,
each resume is compared with what was saved, bit by bit. The first save of each way is shown by itself: it touches its
memory for the first time. Ratios are of the same round, medians over rounds.

Exit status 1: our stall is above a quarter of `torch.save`'s or `save_state`'s. Status 2: something failed.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from checkpoint_training import Trained, trained
from checkpoint_ways import WAYS, Way, drop_from_memory, files_of
from rich.console import Console
from rich.table import Table
from trainers import ROOT, BenchmarkError

from contrastive.errors import UserError

GOAL = 0.25
OURS, SYNCHRONOUS = "ours", ("torch.save", "save_state")
ROOM = 8  # sizes of a save: two or three of ours, one of every other way, and one that is being written
FULL: dict[str, Any] = {"name": "ViT-B-32"}
QUICK: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 256, "layers": 6, "head_width": 64},
        "text_cfg": {"width": 256, "heads": 4, "layers": 4},
    }
}


@dataclass(frozen=True)
class Save:
    """One save and its resume: seconds, bytes on the disk, and of host memory that is kept from save to save."""

    way: str
    step_seconds: float
    stall: float
    lost: float
    on_disk: float
    steps: int
    resume: float
    resume_from_disk: float
    bytes: int
    kept_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        rounds = measure(options, console)
    except (BenchmarkError, UserError, OSError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    Console(width=130).print(table(rounds))
    found = figures(rounds)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record(rounds, options), indent=1) + "\n")
    print(" ".join(f"{name}={value:.3f}" for name, value in found.items()), flush=True)
    return 0 if found["stall_ratio"] <= GOAL else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` changes the model and the defaults of the numbers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer rounds: rough, under a minute")
    parser.add_argument("--rounds", type=_positive, help="after the first, default 5 (--quick: 2)")
    parser.add_argument("--batch-size", type=_positive, help="default 8 (--quick: 4)")
    parser.add_argument("--plain-steps", type=_positive, help="without a save, before each; default 4 (--quick: 2)")
    parser.add_argument("--threads", type=_positive, default=cores, help="of the training; default: cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bf16", "no"), default="bf16")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/benchmarks", help="on the disk to be measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.batch_size = options.batch_size or (4 if options.quick else 8)
    options.plain_steps = options.plain_steps or (2 if options.quick else 4)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def measure(options: argparse.Namespace, console: Console) -> list[list[Save]]:
    """Return the saves by round, the first round's first.

    Raises:
        BenchmarkError: no such device, no room on the disk, or a resume that is not what was saved.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("--device cuda: there is none")
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")  # of one process, and of a save's folder
    held = trained(QUICK if options.quick else FULL, options.batch_size, options.precision, options.device)
    for _ in range(4):  # kernels are chosen, memory is touched, the optimizer's state is made
        held.step()
    options.folder.mkdir(parents=True, exist_ok=True)
    require_room(options.folder, ROOM * held.size())
    rounds = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="checkpoint-") as scratch:
        ways = [way(Path(scratch) / f"{number}", held) for number, way in enumerate(WAYS)]
        for number in range(options.rounds + 1):
            turn = number % len(ways)  # another one begins each round
            saves = [visit(way, held, number, options.plain_steps) for way in ways[turn:] + ways[:turn]]
            rounds.append(sorted(saves, key=lambda save: [way.name for way in ways].index(save.way)))
            console.print(f"round {number}/{options.rounds}: stall ratio {_ratios(rounds[-1], 'stall')}")
        for way in ways:
            way.close()
    return rounds


def require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BenchmarkError(f"--folder {folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def visit(way: Way, held: Trained, number: int, plain_steps: int) -> Save:
    """Save and resume once. What others have left to the disk is written before."""
    os.sync()
    plain = median(_timed(held.step) for _ in range(plain_steps))
    expected = [value.clone() for value in held.numbers()] if number == 0 else None
    began = time.perf_counter()
    way.save(number)
    stall = time.perf_counter() - began
    steps = 0
    while way.ended is None or steps < 2:
        held.step()
        steps += 1
    lost = time.perf_counter() - began - steps * plain
    way.settle()
    assert way.whole is not None
    warm = _timed(way.resume, held)
    if expected is not None:
        require_equal(way, held, expected)
    drop_from_memory(way.place())
    cold = _timed(way.resume, held)
    size = sum(path.stat().st_size for path in files_of(way.place()))
    return Save(way.name, plain, stall, lost, way.whole - began, steps, warm, cold, size, way.kept_bytes())


def _timed(work: Any, held: Trained | None = None) -> float:
    began = time.perf_counter()
    work()
    if held is not None:
        held.synchronize()
    return time.perf_counter() - began


def require_equal(way: Way, held: Trained, expected: Sequence[torch.Tensor]) -> None:
    for found, value in zip(held.numbers(), expected, strict=True):
        if not torch.equal(found, value):
            raise BenchmarkError(f"{way.name}: brings back other numbers than it has saved")


def _ratios(saves: Sequence[Save], column: str) -> str:
    ours = next(save for save in saves if save.way == OURS)
    others = [save for save in saves if save.way != OURS]
    return ", ".join(f"{getattr(ours, column) / getattr(save, column):.2f} of {save.way}" for save in others)


def medians(rounds: Sequence[Sequence[Save]]) -> dict[str, dict[str, float]]:
    """Return by way the first stall, the medians of the other rounds, and what our stall is of its own."""
    found = {}
    for saves in zip(*rounds, strict=True):
        first, later = saves[0], saves[1:]
        ours = [next(save for save in one if save.way == OURS) for one in rounds[1:]]
        columns = ("step_seconds", "stall", "lost", "on_disk", "resume", "resume_from_disk", "bytes", "kept_bytes")
        row = {column: median(getattr(save, column) for save in later) for column in columns}
        row["first_stall"] = first.stall
        row["stall_ratio"] = median(own.stall / save.stall for own, save in zip(ours, later, strict=True))
        found[first.way] = row
    return found


def table(rounds: Sequence[Sequence[Save]]) -> Table:
    """Return the medians, a line a way."""
    grid = Table(title=f"A save and a resume: seconds, medians of {len(rounds) - 1} round(s) after the first")
    grid.add_column("way", no_wrap=True)
    headings = ("stall", "ours is", "first", "lost", "on disk", "GB", "resume", "from disk", "GB kept")
    for heading in headings:
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, row in medians(rounds).items():
        ratio = "" if name == OURS else f"{row['stall_ratio']:.3f}"
        times = (
            f"{row['stall']:.3f}",
            ratio,
            f"{row['first_stall']:.3f}",
            f"{row['lost']:.2f}",
            f"{row['on_disk']:.2f}",
        )
        rest = (f"{row['resume']:.2f}", f"{row['resume_from_disk']:.2f}", f"{row['kept_bytes'] / 1e9:.2f}")
        grid.add_row(name, *times, f"{row['bytes'] / 1e9:.2f}", *rest)
    return grid


def figures(rounds: Sequence[Sequence[Save]]) -> dict[str, float]:
    """Return the last line's figures; `stall_ratio` is the larger one of those that the goal is about."""
    rows = medians(rounds)
    found = {"stall_ratio": max(rows[name]["stall_ratio"] for name in SYNCHRONOUS)}
    for name, row in rows.items():
        key = name.replace(" + ", "_").replace(".", "_").replace(" ", "_")
        found |= {f"{figure}_{key}": row[figure] for figure in ("stall", "lost", "resume")}
    return found


def record(rounds: Sequence[Sequence[Save]], options: argparse.Namespace) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    settings = ("batch_size", "plain_steps", "threads", "device", "precision")
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": figures(rounds), "goal": GOAL, "medians": medians(rounds),
        "rounds": [[asdict(save) for save in saves] for saves in rounds],
        "model": QUICK if options.quick else FULL, "settings": {name: getattr(options, name) for name in settings},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[1]},
        "versions": {name: version(name) for name in ("torch", "accelerate", "safetensors", "open_clip_torch")},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
