"""Packing JPEGs into shards beside the loop that people write, and img2dataset's resizer: images per second and core.

    python benchmarks/pack.py --quick
    python benchmarks/pack.py --json benchmarks/results/pack-MACHINE.json

The same files, listed in the same CSV, with the bytes kept (`kept`), and with the shorter side at 256 pixels in
quality 95 (`resized`). Ours is `contrastive data pack` without its report page: rows listed and checked, shuffled,
packed into equal shards, indexed and hashed. The loop is `webdataset.ShardWriter` in one process: it decodes, resizes
and encodes by Pillow. img2dataset is its resizer and its writer of shards on the files, without a download, in an
environment of its own. A fresh process each, imports not counted, files in the page cache. The ways take turns, a ratio
compares neighbours in time, medians are shown. Exit status 1: a goal was missed. Status 2: the benchmark itself failed.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from pack_images import make
from rich.console import Console
from rich.table import Table
from trainers import ROOT, BenchmarkError

MODES = ("kept", "resized")
WAYS = {"loop": ("loop", 1), "ours": ("ours", 1), "ours 2": ("ours", 2), "img2dataset": ("img2dataset", 1)}
SHARDS = 8
QUICK_NAMES = 8  # of each image, where its bytes are kept
GOALS = {"ratio_kept": 1.5, "ratio_resized": 1.5}
PEER = "img2dataset==1.47.0"
Turns = dict[str, list[dict[str, float]]]  # by way, an answer a round


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        folder, count = options.cache / "pack", options.count
        names = QUICK_NAMES if options.quick else 1  # starting processes takes as long as packing few files
        tables = {
            "kept": make(folder, count, options.images, names),
            "resized": make(folder, count, options.images),
        }
        peer, absence = find_peer(options, console)
        turns = {mode: take_turns(mode, tables[mode], peer, options, console) for mode in MODES}
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    found = figures(turns)
    out = Console()
    for mode, one in turns.items():
        out.print(turn_table(mode, one, absence))
    if options.json:
        options.json.write_text(json.dumps(record(found, turns, absence, options), indent=1) + "\n")
    missed = [name for name, goal in GOALS.items() if not found[name] >= goal]
    for name in missed:
        console.print(f"goal missed: {name} = {found[name]:.3g}, below {GOALS[name]}", style="red")
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))
    return 1 if missed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, one round: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="JPEGs (default: cut from scikit-learn's photographs)"
    )
    parser.add_argument("--count", type=int, default=6000, help="images, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="of an environment with img2dataset")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "benchmarks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.count, options.rounds = 600, 1
    return options


def find_peer(options: argparse.Namespace, console: Console) -> tuple[Path | None, str]:
    """Return the interpreter of img2dataset's environment, or why there is none; a quick run does not make it."""
    if options.peer_python is not None:
        return options.peer_python, ""
    folder = options.cache / "img2dataset"
    if (folder / "made").is_file() and (folder / "made").read_text() == PEER:
        return folder / "bin" / "python", ""
    if options.quick:
        return None, "not installed; a run without --quick does it"
    console.print(f"making img2dataset's environment in {folder} (once)")
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", PEER]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return None, f"not installed: {(done.stdout + done.stderr).strip().splitlines()[-1]}"
    (folder / "made").write_text(PEER)
    return folder / "bin" / "python", ""


def take_turns(mode: str, table: Path, peer: Path | None, options: argparse.Namespace, console: Console) -> Turns:
    """Return each way's answers, one a round."""
    found: Turns = {way: [] for way in WAYS if peer is not None or way != "img2dataset"}
    for path in table.parent.glob("*.jpg"):
        path.read_bytes()  # into the page cache
    for number in range(options.rounds):
        for way, answers in found.items():
            answers.append(ask(way, mode, table, peer, options))
        if len({answers[-1]["images"] for answers in found.values()}) != 1:
            raise BenchmarkError(f"{mode}: the ways packed {[one[-1]['images'] for one in found.values()]} images")
        console.print(f"{mode}, round {number + 1}/{options.rounds}: ratio {ratios(found, 'ours 2')[-1]:.2f}")
    return found


def ask(way: str, mode: str, table: Path, peer: Path | None, options: argparse.Namespace) -> dict[str, float]:
    """Return the answer of one packing in a fresh process."""
    kind, processes = WAYS[way]
    rows = len(table.read_text(encoding="utf-8").splitlines()) - 1
    python = str(peer) if kind == "img2dataset" else sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1"}
    with tempfile.TemporaryDirectory(dir=options.cache) as scratch:
        command = [python, "-W", "ignore", str(Path(__file__).with_name("pack_worker.py")), kind, mode, str(table)]
        command += [f"{scratch}/out", str(processes), str(-(-rows // SHARDS))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    if done.returncode:
        raise BenchmarkError(f"{way}, {mode} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def ratios(turns: Turns, way: str, time_of: str = "clock") -> list[float]:
    """Return the loop's time over that of `way`, round by round."""
    return [theirs[time_of] / own[time_of] for theirs, own in zip(turns["loop"], turns[way], strict=True)]


def speed(answers: Sequence[dict[str, float]], time_of: str = "clock") -> float:
    """Return images per second, by the clock or by the processors' time; the median over rounds."""
    return median(one["images"] / one[time_of] for one in answers)


def figures(turns: dict[str, Turns]) -> dict[str, float]:
    """Return the last line's figures."""
    found = {f"ratio_{mode}": median(ratios(one, "ours 2")) for mode, one in turns.items()}
    found |= {f"core_ratio_{mode}": median(ratios(one, "ours", "cpu")) for mode, one in turns.items()}
    for mode, one in turns.items():
        found[f"images_{mode}"] = speed(one["ours 2"])
        found[f"images_core_{mode}"] = speed(one["ours"], "cpu")
        if "img2dataset" in one:
            found[f"img2dataset_core_{mode}"] = speed(one["img2dataset"], "cpu")
    return found


def turn_table(mode: str, turns: Turns, absence: str) -> Table:
    """Return what each way reached in one mode."""
    what = "bytes kept" if mode == "kept" else "shorter side 256, quality 95"
    grid = Table(title=f"{what}: {turns['loop'][0]['images']:,.0f} images, medians over {len(turns['loop'])} rounds")
    for heading in ("way", "processes", "images/s", "ratio (rounds)", "a core", "ratio", "kB"):
        grid.add_column(heading, justify="left" if heading == "way" else "right")
    for way, (kind, processes) in WAYS.items():
        if way not in turns:
            grid.add_row(way, str(processes), absence)
            continue
        own = ratios(turns, way)
        size = turns[way][0]["bytes"] / turns[way][0]["images"] / 1000
        grid.add_row(
            {"loop": "webdataset"}.get(kind, kind),
            str(processes),
            f"{speed(turns[way]):,.0f}",
            f"{median(own):.2f} ({min(own):.2f} to {max(own):.2f})",
            f"{speed(turns[way], 'cpu'):,.0f}",
            f"{median(ratios(turns, way, 'cpu')):.2f}",
            f"{size:.1f}",
        )
    return grid


def record(found: dict[str, float], turns: dict[str, Turns], absence: str, options: Any) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    packages = ("torch", "torchvision", "pillow", "simplejpeg", "webdataset")
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": found, "goals": GOALS, "turns": turns,
        "peer": absence or PEER,
        "settings": {
            "count": options.count, "rounds": options.rounds,
            "photographs": "scikit-learn's" if options.images is None else options.images.name,
        },
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), **{n: version(n) for n in packages}},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
