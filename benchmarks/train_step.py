"""Training throughput, ours and open_clip's own trainer, on the same model, shards, batch size and machine.

    python benchmarks/train_step.py --quick           # one model, one round: under a minute
    python benchmarks/train_step.py --json out.json   # both models, three rounds

Each round runs our `pretrain.py`, then `python -m open_clip_train.main` of open_clip_torch 3.3.0: same open_clip
model_cfg, tars, crop, batch size, workers, threads, optimizer settings and bf16 autocast, one process on the CPU.
Throughput is the samples between two of a trainer's own log lines divided by the time between their arrivals; the
steps before the first of the two (warm-up: allocation, read-ahead buffers) do not count. A round's ratio compares two
runs that were neighbours in time; the figure of a model is the median over rounds, and `ratio` in the last line is
the worst model's. The CPU columns count all of a trainer's processes over the same steps: they hold on a machine that
also does other work. Exit status 1: below the goal of 1.3. Status 2: a trainer or its environment failed.

The peer needs webdataset 0.2.86 and pandas, so it gets its own folder of packages, put before ours on the path; torch
and everything else is the same. It is made once, by pip.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from trainers import (
    PEER_PACKAGES,
    ROOT,
    BenchmarkError,
    Settings,
    Speed,
    peer_environment,
    photo_shards,
    run_open_clip,
    run_ours,
    speed,
)

GOAL = 1.3
TEXT = {"context_length": 32, "width": 192, "heads": 3, "layers": 4}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 192, "layers": 6, "head_width": 64},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 32},
        "text_cfg": TEXT,
    },
}


@dataclass(frozen=True)
class Pair:
    """One round of one model: two runs that were neighbours in time."""

    model: str
    ours: Speed
    open_clip: Speed

    @property
    def ratio(self) -> float:
        """Our samples per second over theirs."""
        return self.ours.samples_per_second / self.open_clip.samples_per_second

    @property
    def cpu_ratio(self) -> float:
        """Their CPU time a sample over ours."""
        return self.open_clip.cpu_ms_per_sample / self.ours.cpu_ms_per_sample

    def row(self) -> tuple[float, ...]:
        """Return the figures in the order of the table's columns."""
        rates = (self.ours.samples_per_second, self.open_clip.samples_per_second)
        return (*rates, self.ratio, self.ours.cpu_ms_per_sample, self.open_clip.cpu_ms_per_sample, self.cpu_ratio)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        settings = settings_of(options)
        peer = peer_environment(options.cache, console)
        pairs = compare(options.model, options.rounds, settings, peer, console)
    except BenchmarkError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    Console().print(table(pairs))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record(pairs, settings), indent=1) + "\n")
    print(last_line(pairs), flush=True)
    return 0 if figures(pairs)["ratio"] >= GOAL else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` changes the defaults of what is not given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one model, one round, few steps: rough, under a minute")
    parser.add_argument("--model", nargs="+", choices=sorted(MODELS), help="default: all (--quick: resnet)")
    parser.add_argument("--rounds", type=_positive, help="default 3 (--quick: 1)")
    parser.add_argument("--steps", type=_positive, help="measured steps, default 40 (--quick: 16)")
    parser.add_argument("--warmup-steps", type=_positive, help="steps before, default 16 (--quick: 8)")
    parser.add_argument("--batch-size", type=_positive, default=128)
    parser.add_argument("--workers", type=_positive, default=2, help="loader processes of each trainer (default 2)")
    parser.add_argument("--threads", type=_positive, default=cores, help="CPU threads of each trainer (default: cores)")
    parser.add_argument("--data", type=Path, default=ROOT / "data/glyphs/train", help="folder of webdataset tars")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/benchmarks/open_clip", help="the peer's packages")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="for one run (default 900)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    options = parser.parse_args(arguments)
    quick = {"model": ["resnet"], "rounds": 1, "steps": 16, "warmup_steps": 8}
    full = {"model": sorted(MODELS, reverse=True), "rounds": 3, "steps": 40, "warmup_steps": 16}
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what both trainers are told, with the tars that there are.

    Raises:
        BenchmarkError: too few tars; the peer would wait for ever or stop at an assertion.
    """
    shards = tuple(str(path.resolve()) for path in sorted(options.data.glob("*.tar")))
    if not shards:
        if options.data != ROOT / "data/glyphs/train":
            raise BenchmarkError(f"--data {options.data}: holds no *.tar")
        shards = photo_shards(options.cache.parent / "photos")
    if len(shards) < options.workers:
        raise BenchmarkError(f"--workers {options.workers}: the peer needs a tar a worker, and there are {len(shards)}")
    step = 8 if options.steps % 8 == 0 and options.warmup_steps % 8 == 0 else 1  # a line at both ends of the measure
    return Settings(
        shards, options.batch_size, options.workers, options.threads, options.warmup_steps, options.steps, step,
        options.timeout,
    )  # fmt: skip


def compare(models: Sequence[str], rounds: int, settings: Settings, peer: Path, console: Console) -> list[Pair]:
    """Return one pair a round and model; the two trainers take turns."""
    pairs = []
    skipped = settings.warmup_steps * settings.batch_size
    for number in range(rounds):
        for model in models:
            with tempfile.TemporaryDirectory() as scratch:
                ours = speed(run_ours(MODELS[model], settings, Path(scratch)), skipped)
                theirs = speed(run_open_clip(MODELS[model], settings, peer, Path(scratch)), skipped)
            pairs.append(Pair(model, ours, theirs))
            console.print(f"round {number + 1}/{rounds} {model}: ratio {pairs[-1].ratio:.2f}")
    return pairs


def table(pairs: Sequence[Pair]) -> Table:
    """Return the rounds, and each model's medians."""
    grid = Table(title="Training throughput: samples per second, and CPU milliseconds per sample")
    grid.add_column("model", no_wrap=True)
    for heading in ("round", "ours", "open_clip", "ratio", "CPU ours", "theirs", "ratio"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for model, own in _by_model(pairs).items():
        for number, pair in enumerate(own, start=1):
            grid.add_row(model, str(number), *_written(pair.row()))
        grid.add_row(model, "median", *_written(_medians(own)), style="bold")
        grid.add_section()
    return grid


def _written(row: Sequence[float]) -> list[str]:
    return [f"{value:.{digits}f}" for value, digits in zip(row, (1, 1, 2, 2, 2, 2), strict=True)]


def _by_model(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    return {name: [pair for pair in pairs if pair.model == name] for name in dict.fromkeys(p.model for p in pairs)}


def _medians(pairs: Sequence[Pair]) -> tuple[float, ...]:
    """Return the median of each column; of ratios too, since only neighbours saw the same machine."""
    return tuple(median(column) for column in zip(*(pair.row() for pair in pairs), strict=True))


def figures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Return the last line's figures: those of the model of the lowest ratio first, then every model's ratios."""
    middles = {model: _medians(own) for model, own in _by_model(pairs).items()}
    ours, theirs, ratio, *_ = min(middles.values(), key=lambda middle: middle[2])
    found = {"ratio": ratio, "ours_samples_per_second": ours, "open_clip_samples_per_second": theirs}
    found |= {f"ratio_{model}": middle[2] for model, middle in middles.items()}
    return found | {f"cpu_ratio_{model}": middle[5] for model, middle in middles.items()}


def last_line(pairs: Sequence[Pair]) -> str:
    """Return `name=value` figures on one line, for scripts."""
    return " ".join(f"{name}={value:.3f}" for name, value in figures(pairs).items())


def record(pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": figures(pairs), "goal": GOAL,
        "rounds": [{**asdict(pair), "ratio": pair.ratio, "cpu_ratio": pair.cpu_ratio} for pair in pairs],
        "settings": {**asdict(settings), "shards": len(settings.shards)}, "models": MODELS, "peer": PEER_PACKAGES,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
