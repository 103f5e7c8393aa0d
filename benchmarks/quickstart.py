"""What the built-in run learns in five minutes: trains configs/glyphs.yaml with several seeds and reports the medians.

    python benchmarks/quickstart.py                         # three seeds, about 15 minutes on two cores
    python benchmarks/quickstart.py --quick                 # a tenth of one run: is the full one within its time?
    python benchmarks/quickstart.py --summary runs/glyphs   # one line about a run that is there

Every figure is on data that training never saw, with the chance level beside it. The last line is `name=value`
figures. Exit status 1: a goal is missed (in --quick only the goal of time is judged, from the speed seen).
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CONFIG, LAUNCH = "configs/glyphs.yaml", "configs/launch/cpu2.yaml"
# name: (dataset, metric, goal)
FIGURES = {
    "digits_top1": ("digits", "top1", 0.75),
    "faces_r1": ("faces", "image_to_text_recall@1", 0.45),
    "faces_r5": ("faces", "image_to_text_recall@5", 0.78),
    "chars_r5": ("characters", "image_to_text_recall@5", 0.60),
}
ALSO = {
    "faces_r1_lookalikes": ("faces", "image_to_text_recall@1_lookalikes"),
    "chars_r5_lookalikes": ("characters", "image_to_text_recall@5_lookalikes"),
}
MAX_TRAIN_SECONDS = 300.0
TASKS = ("zeroshot", "retrieval")


def read(run: Path) -> dict[str, Any]:
    """Return a finished run's figures, chance levels, number of names and training seconds."""
    finished = json.loads((run / "finished.json").read_text())
    tasks = [result for result in json.loads((run / "evaluation.json").read_text()) if result["task"] in TASKS]
    results = {result["dataset"]: result for result in tasks}
    wanted = {name: (dataset, metric) for name, (dataset, metric, _) in FIGURES.items()} | ALSO
    return {
        "figures": {name: results[dataset]["metrics"][metric] for name, (dataset, metric) in wanted.items()},
        "chance": {name: results[dataset]["chance"][metric] for name, (dataset, metric) in wanted.items()},
        "names": results["faces"]["details"]["counts"]["texts"],
        "train_seconds": finished["seconds"],
    }


def summary(run: Path) -> str:
    """Return the line that scripts read."""
    found = read(run)
    figures = " ".join(f"{name}={found['figures'][name]:.3f}" for name in FIGURES)
    report = run / "report.html"
    return f"QUICKSTART {figures} names={found['names']} train_seconds={found['train_seconds']:.0f} report={report}"


def train(run: Path, *overrides: str) -> None:
    """Run pretrain.py as the quickstart does; a run that is already finished is left as it is."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", LAUNCH]
    command = [*launch, "pretrain.py", CONFIG, f"run.directory={run}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True)


def quick(folder: Path) -> dict[str, float]:
    """Train a tenth of a run without evaluation, and return the seconds that the whole would take at that speed."""
    run = folder / f"quick-{int(time.time())}"
    total = int(next(line for line in (ROOT / CONFIG).read_text().splitlines() if "total_samples" in line).split()[1])
    train(run, f"train.total_samples={total // 10}", "eval.datasets=[]")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speed = median(row["samples_per_second"] for row in rows[1:])
    return {"samples_per_second": speed, "train_seconds": total / speed}


def full(folder: Path, seeds: list[int], console: Console) -> tuple[dict[str, float], bool]:
    """Train every seed, print the table, and return the medians and whether every goal is met."""
    runs = {}
    for seed in seeds:
        run = folder / f"seed-{seed}"
        train(run, f"train.seed={seed}")
        runs[seed] = read(run)
    first = runs[seeds[0]]
    grid = Table(
        title=f"{CONFIG}: {len(seeds)} seeds, {first['names']:,} names, {time.strftime('%Y-%m-%d')}, {machine()}"
    )
    for heading in ("figure", *(f"seed {seed}" for seed in seeds), "median", "goal", "chance"):
        grid.add_column(heading, justify="left" if heading == "figure" else "right")
    medians = {name: median(run["figures"][name] for run in runs.values()) for name in first["figures"]}
    for name, middle in medians.items():
        goal = f">= {FIGURES[name][2]:.2f}" if name in FIGURES else ""
        values = [f"{runs[seed]['figures'][name]:.3f}" for seed in seeds]
        grid.add_row(name, *values, f"{middle:.3f}", goal, f"{first['chance'][name]:.4f}")
    seconds = [run["train_seconds"] for run in runs.values()]
    grid.add_row(
        "train_seconds", *(f"{s:.0f}" for s in seconds), f"{median(seconds):.0f}", f"<= {MAX_TRAIN_SECONDS:.0f}", ""
    )
    console.print(grid)
    met = all(medians[name] >= goal for name, (_, _, goal) in FIGURES.items()) and max(seconds) <= MAX_TRAIN_SECONDS
    return {**medians, "names": first["names"], "train_seconds": median(seconds)}, met


def machine() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {sum(line.startswith('processor') for line in lines)} cores"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of one run; judges the time alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--summary", type=Path, metavar="RUN", help="print one line about a finished run, and end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart"), help="where the seeds' runs lie")
    options = parser.parse_args()
    if options.summary is not None:
        print(summary(options.summary))
        return 0
    if options.quick:
        figures = quick(options.runs)
        met = figures["train_seconds"] <= MAX_TRAIN_SECONDS
    else:
        figures, met = full(options.runs, options.seeds, Console(width=120))
    if options.json is not None:
        options.json.write_text(
            json.dumps({**figures, "machine": machine(), "date": time.strftime("%Y-%m-%d")}, indent=1) + "\n"
        )
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
