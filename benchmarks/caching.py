"""A step of global batch 4,096 in micro-batches: its time, its memory, and how far it is from the plain step.

    python benchmarks/caching.py --quick           # a smaller model, micro-batches of 64 alone: under a minute
    python benchmarks/caching.py --json out.json   # all rows, three rounds

Every row of a round is one step in a fresh process: same weights, same batch, SGD, clipping. Rows are the plain step,
our cached step with `train.micro_batch_size` from 2,048 down to 64 (and 64 for images with 512 for texts), and the
recipe of open_clip_train's `--accum-freq`, which takes its loss once a micro-batch, written against its own ClipLoss.
Memory is the growth of the process's peak over the step (VmHWM), gradients included, weights and batch not. A
difference is, of all parameters, the largest ||cached - plain|| / ||plain|| after the step. Ratios are of neighbours in
time, medians over rounds; CPU ratios hold on a machine that also does other work.

Exit status 1: a parameter differs by more than 1e-6, or micro-batches of 64 need more than an eighth of the plain
step's memory. Status 2: a process failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from trainers import BenchmarkError

EXACT, MEMORY = 1e-6, 1 / 8
BATCH = 4096
FULL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 4, "head_width": 64},
    "text_cfg": {"context_length": 16, "width": 128, "heads": 2, "layers": 4},
}
QUICK: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class Row:
    """A way to take the step: sizes of the micro-batches, by our step or by open_clip's recipe."""

    name: str
    image: int
    text: int
    is_ours: bool = True


PLAIN = Row("plain", BATCH, BATCH)
SMALLEST = Row("64", 64, 64)
ROWS = (
    PLAIN,
    Row("2048", 2048, 2048),
    Row("512", 512, 512),
    SMALLEST,
    Row("64, texts 512", 64, 512),
    Row("open_clip 512", 512, 512, is_ours=False),
)


@dataclass(frozen=True)
class Step:
    """What one step took, and how far its weights are from those of the round's plain step."""

    name: str
    seconds: float
    cpu_seconds: float
    mib: float
    difference: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rows; return the exit status."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.one is not None:
        print(json.dumps(asdict(take(next(row for row in ROWS if row.name == options.one), options))))
        return 0
    try:
        rounds = [run_round(options) for _ in range(options.rounds)]
    except BenchmarkError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    Console().print(table(rounds))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record(rounds, options), indent=1) + "\n")
    found = figures(rounds)
    print(" ".join(f"{name}={value:.3g}" for name, value in found.items()), flush=True)
    return 0 if found["difference"] <= EXACT and found["memory_64"] <= MEMORY else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` changes the default of `--rounds`, the rows and the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model, two rows, one round: under a minute")
    parser.add_argument("--rounds", type=_positive, help="default 3 (--quick: 1)")
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads (default 1, see README.md)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what the script calls itself with
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def run_round(options: argparse.Namespace) -> list[Step]:
    """Return every row's step, each taken in a process of its own."""
    rows = (PLAIN, SMALLEST) if options.quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        steps = [call(row, options, Path(folder) / f"{number}.pt") for number, row in enumerate(rows)]
        weights = [torch.load(Path(folder) / f"{number}.pt") for number in range(len(rows))]
    return [
        Step(**{**asdict(step), "difference": apart(own, weights[0])}) for step, own in zip(steps, weights, strict=True)
    ]


def call(row: Row, options: argparse.Namespace, weights: Path) -> Step:
    """Take a row's step in a fresh process, which leaves its weights in a file."""
    command = [
        sys.executable,
        __file__,
        "--one",
        row.name,
        "--weights",
        str(weights),
        "--threads",
        str(options.threads),
    ]
    command += ["--quick"] if options.quick else []
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BenchmarkError(f"{row.name}: status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return Step(**json.loads(done.stdout.splitlines()[-1]))


def take(row: Row, options: argparse.Namespace) -> Step:
    """Take a row's step in this process."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="no")
    model = QUICK if options.quick else FULL
    run_step(row, accelerator, make(model), batch(128))  # loads libraries and starts threads
    task, whole = make(model), batch(BATCH)
    mib, wall, cpu = start_peak(), time.perf_counter(), time.process_time()
    run_step(row, accelerator, task, whole)
    step = Step(row.name, time.perf_counter() - wall, time.process_time() - cpu, peak_mib() - mib)
    if options.weights is not None:
        torch.save({name: parameter.detach() for name, parameter in task.named_parameters()}, options.weights)
    return step


def make(model_cfg: dict[str, Any]) -> Any:
    """Return the task with weights as after some training: none is zero, where only a rounding would remain."""
    from contrastive.config import load
    from contrastive.models.build import build
    from contrastive.train.task import ContrastiveTask

    overrides = [f"model.model_cfg.{key}={json.dumps(value)}" for key, value in model_cfg.items()]
    config = load([], overrides)
    torch.manual_seed(0)
    built = build(config.model)
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return ContrastiveTask(built.model, built.preprocess, config).train()


def batch(size: int) -> dict[str, Tensor]:
    generator, numbers = torch.Generator().manual_seed(1), torch.arange(size)
    image = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    text = torch.randint(1, 49000, (size, 16), generator=generator)
    return {"image": image, "text": text, **dict.fromkeys(("seed", "caption_id", "image_id"), numbers)}


def run_step(row: Row, accelerator: Any, task: Any, whole: dict[str, Tensor]) -> None:
    """Forward, backward, clip and update."""
    from contrastive.train.caching import StepPlan
    from contrastive.train.step import Step as TrainStep

    size = len(whole["image"])
    sgd = torch.optim.SGD(task.parameters(), lr=0.1)
    plan = StepPlan(size, min(row.image, size), min(row.text, size))
    step = TrainStep(accelerator, task, sgd, plan, clip=1.0)
    if not row.is_ours:
        step.cached = lambda given: accumulate(task, given, plan.image)  # type: ignore[assignment]
    step(whole, is_read=False)


def accumulate(task: Any, whole: dict[str, Tensor], micro: int) -> dict[str, Tensor]:
    """The recipe of open_clip_train 3.3.0, train.py: fresh features among cached ones, a whole loss a micro-batch."""
    from open_clip.loss import ClipLoss

    pieces = [
        dict(zip(whole, parts, strict=True)) for parts in zip(*(v.split(micro) for v in whole.values()), strict=True)
    ]
    names, loss_of = ("image_features", "text_features"), ClipLoss()
    with torch.no_grad():
        cached = [task(piece, "features") for piece in pieces]
    for number, piece in enumerate(pieces):
        fresh = task(piece, "features")
        mixed = [
            torch.cat([*(c[n] for c in cached[:number]), fresh[n], *(c[n] for c in cached[number + 1 :])])
            for n in names
        ]
        loss = loss_of(*mixed, task.model.logit_scale.exp())
        loss.backward()
    return {"loss": loss}


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a parameter tensor."""
    return max(float((found[name] - value).norm() / value.norm()) for name, value in expected.items())


def start_peak() -> float:
    """Make the process's present memory its peak, and return it in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def medians(rounds: Sequence[Sequence[Step]]) -> dict[str, dict[str, float]]:
    """Return, by row, the medians over rounds of seconds, ratios to the round's plain step, memory and difference."""
    found = {}
    for steps in zip(*rounds, strict=True):
        pairs = [(step, own[0]) for step, own in zip(steps, rounds, strict=True)]
        found[steps[0].name] = {
            "seconds": median(step.seconds for step in steps),
            "ratio": median(step.seconds / plain.seconds for step, plain in pairs),
            "cpu_ratio": median(step.cpu_seconds / plain.cpu_seconds for step, plain in pairs),
            "mib": median(step.mib for step in steps),
            "memory": median(step.mib / plain.mib for step, plain in pairs),
            "difference": max(step.difference for step in steps),
        }
    return found


def table(rounds: Sequence[Sequence[Step]]) -> Table:
    """Return the medians, a line a row."""
    grid = Table(title=f"A step of global batch {BATCH:,}: medians of {len(rounds)} round(s)")
    grid.add_column("micro-batches", no_wrap=True)
    for heading in ("seconds", "ratio", "CPU ratio", "MiB", "of plain", "difference"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, row in medians(rounds).items():
        times = (f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['cpu_ratio']:.2f}")
        grid.add_row(name, *times, f"{row['mib']:.0f}", f"{row['memory']:.3f}", f"{row['difference']:.1e}")
    return grid


def figures(rounds: Sequence[Sequence[Step]]) -> dict[str, float]:
    """Return the last line's figures; `difference` is the largest of all our rows."""
    rows = medians(rounds)
    ours = [rows[row.name]["difference"] for row in ROWS if row.is_ours and row.name in rows]
    found = {"difference": max(ours), "plain_mib": rows[PLAIN.name]["mib"]}
    for name in list(rows)[1:]:
        key = name.replace(", ", "_").replace(" ", "_")
        found |= {f"{figure}_{key}": rows[name][figure] for figure in ("ratio", "cpu_ratio", "memory")}
    return found


def record(rounds: Sequence[Sequence[Step]], options: argparse.Namespace) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": figures(rounds),
        "goals": {"difference": EXACT, "memory_64": MEMORY},
        "medians": medians(rounds), "rounds": [[asdict(step) for step in steps] for steps in rounds],
        "batch": BATCH, "model": QUICK if options.quick else FULL, "threads": options.threads,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")},
        "open_clip": version("open_clip_torch"),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
