"""Our evaluation beside CLIP_benchmark's: retrieval metrics of given embeddings, and whole commands from JPEG to JSON.

    python benchmarks/evaluate.py --quick
    python benchmarks/evaluate.py --json benchmarks/results/evaluate-MACHINE.json     # about an hour of two cores

Metrics: 5,000 images and 25,000 captions in 512 dimensions, one thread, a fresh process each; ours is the whole task
with ranks, gallery and rows. Commands: `eval_zeroshot.py` and `clip_benchmark eval` as a user starts them, start-up
included, on the same tars with the same model (random weights: what is right does not matter here, only that both say
the same), in batches of 64. Ours decodes in threads, its default, theirs in two processes. Ours does zero-shot and
retrieval from one pass, theirs in two runs. In fp32, and in bf16, which is CLIP_benchmark's default. The sides take
turns, a ratio compares neighbours in time, and the median over rounds is shown. Exit status 1: a goal was missed.
Status 2: the benchmark itself failed.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from evaluate_data import Data, make, make_model
from evaluate_peer import CACHE, PACKAGES, command, environment, variables
from rich.console import Console
from rich.table import Table
from trainers import ROOT, BenchmarkError

LEAST = {"scoring_ratio": 12.0, "both_ratio": 1.8, "zeroshot_ratio": 1.0, "retrieval_ratio": 1.0}
MOST = {"scoring_difference": 1e-6, "scoring_mib": 1024.0}
TASKS = {"zeroshot": "zeroshot_classification", "retrieval": "zeroshot_retrieval"}
METRICS = {"zeroshot": ("acc1", "acc5"), "retrieval": ("image_retrieval_recall@5", "text_retrieval_recall@5")}
TIMES = ("clock", "cpu")
SCORED = 5000  # images whose retrieval metrics are timed, with five captions each
Turns = dict[str, list[dict[str, Any]]]  # by side and task ("ours both"), an answer a round


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        packages = environment(console, options.cache)
        scoring = score_in_turns(options, packages, console)
        data = make(options.cache / "evaluate", options.images, options.classes)
        model = make_model(options.cache / "evaluate", options.model)
        commands = Commands(model, data, packages, options)
        pipelines = {kind: run_in_turns(kind, commands, options) for kind in options.precisions}
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    found = figures(scoring, pipelines)
    out = Console()
    for table in (scoring_table(scoring), *(pipeline_table(kind, turns) for kind, turns in pipelines.items())):
        out.print(table)
    if options.json:
        options.json.write_text(json.dumps(record(found, scoring, pipelines, options), indent=1) + "\n")
    missed = misses(found, options.quick)
    for name in missed:
        console.print(f"goal missed: {name} = {found[name]:.4g}", style="red")
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))
    return 1 if missed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few JPEGs, fp32, one round, ratios not judged: a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    parser.add_argument("--images", type=int, default=5000, help="JPEGs")
    parser.add_argument(
        "--classes", type=int, default=100, help="of the zero-shot task, seven prompts each; at most 100"
    )
    parser.add_argument("--model", default="ViT-S-32-alt", help="open_clip architecture")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the commands; the metrics have one")
    parser.add_argument("--workers", type=int, default=2, help="of CLIP_benchmark; ours decodes in threads by default")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--cache", type=Path, default=CACHE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.images, options.classes, options.precisions, options.rounds = 100, 20, ["fp32"], 1
    return options


def score_in_turns(options: argparse.Namespace, packages: Path, console: Console) -> Turns:
    """Return what each side's metrics of given embeddings took."""
    found: Turns = {"theirs": [], "ours": []}
    worker = str(Path(__file__).with_name("evaluate_worker.py"))
    images = 1000 if options.quick else SCORED
    for number in range(options.rounds):
        for side, answers in found.items():
            said, _ = call(
                [sys.executable, worker, side, str(images)], variables(packages if side == "theirs" else None)
            )
            answers.append(json.loads(said.splitlines()[-1]))
        console.print(f"metrics, round {number + 1}/{options.rounds}: {ratios(found, 'theirs', 'ours', 'cpu')[-1]:.1f}")
    return found


def run_in_turns(kind: str, commands: "Commands", options: argparse.Namespace) -> Turns:
    """Return what each command took and said, in one precision; a quick run leaves our single tasks out."""
    runs = ["theirs zeroshot", "ours both", "theirs retrieval"]
    found: Turns = {name: [] for name in (runs if options.quick else [*runs, "ours zeroshot", "ours retrieval"])}
    for _ in range(options.rounds):
        for name, answers in found.items():
            side, task = name.split()
            with tempfile.TemporaryDirectory() as scratch:
                run = commands.ours if side == "ours" else commands.theirs
                answers.append(run(task, kind, Path(scratch) / "out.json"))
    return found


@dataclass(frozen=True)
class Commands:
    """The two sides' commands on one model and one set of data."""

    model: Path
    data: Data
    packages: Path
    options: argparse.Namespace

    def theirs(self, task: str, kind: str, output: Path) -> dict[str, Any]:
        """Run one task of CLIP_benchmark."""
        root = self.data.classification if task == "zeroshot" else self.data.retrieval
        sizes = {"batch_size": self.options.batch_size, "num_workers": self.options.workers}
        words = command(f"local-dir:{self.model}", "wds/photos", root, output, {"task": TASKS[task], **sizes})
        words = [word for word in words if word != "--no_amp" or kind == "fp32"]
        _, spent = call(words, variables(self.packages, self.options.threads))
        metrics = json.loads(output.read_text())["metrics"]
        return {**spent, "metrics": {name: metrics[name] for name in METRICS[task]}}

    def ours(self, task: str, kind: str, output: Path) -> dict[str, Any]:
        """Run eval_zeroshot.py with one task or both."""
        words = [sys.executable, str(ROOT / "eval_zeroshot.py"), "--model", f"local-dir:{self.model}"]
        words += ["--data", str(self.data.yamls[task]), "--device", "cpu", "--no-cache", "--precision", kind]
        words += ["--batch-size", str(self.options.batch_size)]
        _, spent = call([*words, "--output", str(output)], variables(None, self.options.threads))
        return {**spent, "metrics": our_metrics(json.loads(output.read_text()))}


def our_metrics(written: Any) -> dict[str, float]:
    """Return the compared metrics of a written result, by CLIP_benchmark's names."""
    names = {
        "top1": "acc1", "top5": "acc5",
        "text_to_image_recall@5": "image_retrieval_recall@5", "image_to_text_recall@5": "text_retrieval_recall@5",
    }  # fmt: skip
    found = {}
    for result in written["results"]:
        found |= {names[name]: one["value"] for name, one in result["metrics"].items() if name in names}
    return found


def call(words: Sequence[str], environ: dict[str, str]) -> tuple[str, dict[str, float]]:
    """Return what a process prints, and its clock and processor seconds, those of its own processes included."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, env=environ, check=False, timeout=3600, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(words[1:6])} … failed:\n{(done.stdout + done.stderr)[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, {"clock": time.perf_counter() - start, "cpu": cpu}


def ratios(turns: Turns, above: str, below: str, field: str = "clock") -> list[float]:
    """Return what one takes over what another takes, round by round; several of `above` joined by + are added."""
    sums = [sum(turns[name][index][field] for name in above.split(" + ")) for index in range(len(turns[below]))]
    return [one / own[field] for one, own in zip(sums, turns[below], strict=True)]


def comparisons(turns: Turns) -> dict[str, tuple[str, str]]:
    """Return what is compared with what."""
    pairs = {"both": ("theirs zeroshot + theirs retrieval", "ours both")}
    pairs |= {task: (f"theirs {task}", f"ours {task}") for task in TASKS}
    return {name: pair for name, pair in pairs.items() if pair[1] in turns}


def figures(scoring: Turns, pipelines: dict[str, Turns]) -> dict[str, float]:
    """Return the last line's figures; of two precisions the worse."""
    found = {"scoring_ratio": median(ratios(scoring, "theirs", "ours", "cpu"))}
    pairs = [(theirs["recalls"], own["recalls"]) for theirs, own in zip(*scoring.values(), strict=True)]
    found["scoring_difference"] = max(abs(theirs[name] - own[name]) for theirs, own in pairs for name in theirs)
    found["scoring_mib"] = max(one["mib"] for one in scoring["ours"])
    found["scoring_mib_theirs"] = max(one["mib"] for one in scoring["theirs"])
    for kind, turns in pipelines.items():
        for name, pair in comparisons(turns).items():
            value = median(ratios(turns, *pair))
            found[f"{name}_ratio"] = min(value, found.get(f"{name}_ratio", value))
        found[f"difference_{kind}"] = difference(turns)
    return found


def difference(turns: Turns) -> float:
    """Return by how much the metrics of the two sides' commands differ at most."""
    own = turns["ours both"][0]["metrics"]
    return max(abs(own[name] - turns[f"theirs {task}"][0]["metrics"][name]) for task in TASKS for name in METRICS[task])


def misses(found: dict[str, float], quick: bool) -> list[str]:
    """Return the figures that miss their goals. In a quick run ratios are not judged: most of a command is start-up."""
    low = [] if quick else [name for name, goal in LEAST.items() if not found[name] >= goal]
    return low + [name for name, limit in MOST.items() if not found[name] <= limit]


def scoring_table(scoring: Turns) -> Table:
    """Return time and memory of the metrics alone."""
    grid = Table(title="Retrieval metrics of given embeddings, medians")
    for heading in ("side", "processor s", "peak MiB", "ratio (rounds)"):
        grid.add_column(heading, justify="left" if heading == "side" else "right")
    for side, answers in scoring.items():
        shown = spread(ratios(scoring, "theirs", "ours", "cpu")) if side == "ours" else ""
        middle = [f"{median(one[name] for one in answers):,.1f}" for name in ("cpu", "mib")]
        grid.add_row("CLIP_benchmark" if side == "theirs" else side, *middle, shown)
    return grid


def pipeline_table(kind: str, turns: Turns) -> Table:
    """Return clock and processor time of the commands."""
    grid = Table(title=f"From JPEGs to metrics, {kind}, medians over rounds")
    for heading in ("tasks", "CLIP_benchmark s", "ours s", "ratio (rounds)", "processor s", "ours"):
        grid.add_column(heading, justify="left" if heading == "tasks" else "right")
    for name, (above, below) in comparisons(turns).items():
        theirs = {
            field: sum(median(one[field] for one in turns[part]) for part in above.split(" + ")) for field in TIMES
        }
        ours = {field: median(one[field] for one in turns[below]) for field in TIMES}
        times = [f"{side[field]:,.1f}" for field in TIMES for side in (theirs, ours)]
        grid.add_row(name, *times[:2], spread(ratios(turns, above, below)), *times[2:])
    return grid


def spread(values: Sequence[float]) -> str:
    """Return the median and the range."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def record(found: dict[str, float], scoring: Turns, pipelines: dict[str, Turns], options: Any) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("json", "cache")}
    packages = ("torch", "torchvision", "pillow", "open_clip_torch", "numpy", "webdataset")
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": found, "goals": {**LEAST, **MOST}, "scoring": scoring,
        "pipelines": pipelines, "settings": settings, "peer": PACKAGES,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), **{n: version(n) for n in packages}},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
