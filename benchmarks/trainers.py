"""Starts the two trainers of `train_step.py` and reads how far each was at what time; makes the peer's environment."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
PEER_PACKAGES = ("open_clip_torch==3.3.0", "webdataset==0.2.86", "pandas>=2", "braceexpand", "python-dateutil", "six")
PEER_LINE = re.compile(r"Train Epoch: \d+ \[\s*(\d+)/")
Mark = tuple[int, float]  # samples seen, seconds on that trainer's clock


class BenchmarkError(Exception):
    """A trainer or its environment failed; the message ends with what it printed last."""


@dataclass(frozen=True)
class Settings:
    """What both trainers are told."""

    shards: tuple[str, ...]
    batch_size: int
    workers: int
    threads: int
    warmup_steps: int
    steps: int
    log_every: int
    timeout_seconds: float


def photo_shards(folder: Path) -> tuple[str, ...]:
    """Return tars of 2,048 crops of scikit-learn's two photos, for a checkout without the glyphs; made once."""
    if not folder.is_dir():
        make = [sys.executable, str(Path(__file__).with_name("photo_shards.py")), str(folder)]
        _call(make, "the photo shards")
    return tuple(str(path) for path in sorted(folder.glob("*.tar")))


def peer_environment(folder: Path, console: Console) -> Path:
    """Return the folder of the peer's packages; made when it is missing or was made for other packages."""
    wanted = "\n".join((*PEER_PACKAGES, platform.python_version(), "")).encode()
    mark = folder / "packages.txt"
    if mark.is_file() and mark.read_bytes() == wanted:
        return folder
    console.print(f"making the peer's environment in {folder} (once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        made = Path(unfinished) / "packages"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _call([*install, "--target", str(made), *PEER_PACKAGES], "the peer's environment")
        (made / mark.name).write_bytes(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _call(command: Sequence[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{purpose}: {' '.join(command[:6])} … failed:\n{(done.stdout + done.stderr)[-2000:]}")


def rate(marks: Sequence[Mark], skipped_samples: int) -> float:
    """Return samples per second between the first mark at or after `skipped_samples` and the last mark."""
    kept = [mark for mark in marks if mark[0] >= skipped_samples]
    if len(kept) < 2 or kept[-1][1] <= kept[0][1]:
        raise BenchmarkError(f"a trainer logged only {len(kept)} lines after the warm-up: take more steps")
    return (kept[-1][0] - kept[0][0]) / (kept[-1][1] - kept[0][1])


def run_ours(model_cfg: Mapping[str, Any], settings: Settings, scratch: Path) -> list[Mark]:
    """Train with `pretrain.py` and return the marks of its metrics.jsonl."""
    total = (settings.warmup_steps + settings.steps) * settings.batch_size
    config = {
        "model": {"model_cfg": dict(model_cfg)},
        "data": {
            "train": "::".join(settings.shards),
            "global_batch_size": settings.batch_size,
            "workers": settings.workers,
            "random_crop": [0.9, 1.0],
        },
        "optim": {"learning_rate": 5e-4, "clip_grad_norm": 1.0, "warmup_samples": 10 * settings.batch_size},
        "train": {"total_samples": total, "precision": "bf16", "threads": settings.threads},
        "tracking": {"log_every_steps": settings.log_every, "tensorboard": False},
        "run": {"directory": str(scratch / "ours")},
    }
    (scratch / "ours.yaml").write_text(yaml.safe_dump(config))
    _watch([sys.executable, str(ROOT / "pretrain.py"), str(scratch / "ours.yaml")], {}, settings)
    rows = map(json.loads, (scratch / "ours" / "metrics.jsonl").read_text().splitlines())
    return [(row["samples_seen"], row["seconds"]) for row in rows if row["kind"] == "train"]


def run_open_clip(model_cfg: Mapping[str, Any], settings: Settings, peer: Path, scratch: Path) -> list[Mark]:
    """Train with open_clip's trainer and return the marks of its log lines, timed as they arrive."""
    folder = scratch / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    flags = {
        "model": f"local-dir:{folder}", "train-data": "::".join(settings.shards), "dataset-type": "webdataset",
        "train-num-samples": (settings.warmup_steps + settings.steps) * settings.batch_size,
        "batch-size": settings.batch_size, "workers": settings.workers, "epochs": 1, "warmup": 10, "lr": 5e-4,
        "grad-clip-norm": 1.0, "precision": "amp_bf16", "device": "cpu", "log-every-n-steps": settings.log_every,
        "logs": scratch, "name": "open_clip",
    }  # fmt: skip
    command = [sys.executable, "-m", "open_clip_train.main"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    lines = _watch(command, {"PYTHONPATH": str(peer)}, settings)
    found = [(PEER_LINE.search(line), seconds) for line, seconds in lines]
    return [(int(match.group(1)), seconds) for match, seconds in found if match]


def _watch(command: Sequence[str], extra: Mapping[str, str], settings: Settings) -> list[tuple[str, float]]:
    """Run a trainer to its end and return its output lines with the time each arrived."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "CUDA_VISIBLE_DEVICES": "", **extra}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as process:
        killer = threading.Timer(settings.timeout_seconds, process.kill)
        killer.start()
        assert process.stdout is not None
        lines = [(line, time.perf_counter()) for line in process.stdout]
        code = process.wait()
        killer.cancel()
    if code:
        seconds, last = time.perf_counter() - started, "".join(line for line, _ in lines[-15:])
        why = f"ended with status {code} after {seconds:.0f} s (--timeout {settings.timeout_seconds:.0f})"
        raise BenchmarkError(f"{' '.join(command[:3])} … {why}; its last lines:\n{last}")
    return lines
