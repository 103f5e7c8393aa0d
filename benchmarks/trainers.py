"""Starts the two trainers of `train_step.py` and notes how far each was when; makes the peer's environment."""

import collections
import contextlib
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

import psutil
import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
PEER_PACKAGES = ("open_clip_torch==3.3.0", "webdataset==0.2.86", "pandas>=2", "braceexpand", "python-dateutil", "six")
PEER_LINE = re.compile(r"Train Epoch: \d+ \[\s*(\d+)/")
OUR_LINE = re.compile(r"^step (\d+)/\d+ ")


class BenchmarkError(Exception):
    """A trainer or its environment failed; the message ends with what it printed last."""


@dataclass(frozen=True)
class Mark:
    """One log line of a trainer: samples seen, and at its arrival the clock and the CPU time of all its processes."""

    samples: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Speed:
    """A trainer in its steady state. The CPU time tells what the machine's other work cannot disturb."""

    samples_per_second: float
    cpu_ms_per_sample: float


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


def peer_environment(folder: Path, console: Console, packages: Sequence[str] = PEER_PACKAGES) -> Path:
    """Return the folder of the peer's packages; made when it is missing or was made for other packages."""
    wanted = "\n".join((*packages, platform.python_version(), "")).encode()
    mark = folder / "packages.txt"
    if mark.is_file() and mark.read_bytes() == wanted:
        return folder
    console.print(f"making the peer's environment in {folder} (once)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        made = Path(unfinished) / "packages"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _call([*install, "--target", str(made), *packages], "the peer's environment")
        (made / mark.name).write_bytes(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _call(command: Sequence[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{purpose}: {' '.join(command[:6])} … failed:\n{(done.stdout + done.stderr)[-2000:]}")


def speed(marks: Sequence[Mark], skipped_samples: int) -> Speed:
    """Return the speed between the first mark at or after `skipped_samples` and the last mark."""
    kept = [mark for mark in marks if mark.samples >= skipped_samples]
    if len(kept) < 2 or kept[-1].seconds <= kept[0].seconds:
        raise BenchmarkError(f"a trainer logged only {len(kept)} lines after the warm-up: take more steps")
    first, last = kept[0], kept[-1]
    samples = last.samples - first.samples
    cpu = last.cpu_seconds - first.cpu_seconds
    return Speed(samples / (last.seconds - first.seconds), 1000 * cpu / samples)


def run_ours(model_cfg: Mapping[str, Any], settings: Settings, scratch: Path) -> list[Mark]:
    """Train with our `pretrain.py`."""
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
    command = [sys.executable, str(ROOT / "pretrain.py"), str(scratch / "ours.yaml")]
    return _watch(command, OUR_LINE, settings.batch_size, {}, settings)


def run_open_clip(model_cfg: Mapping[str, Any], settings: Settings, peer: Path, scratch: Path) -> list[Mark]:
    """Train with open_clip's own trainer."""
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
    return _watch(command, PEER_LINE, 1, {"PYTHONPATH": str(peer)}, settings)


def _watch(
    command: Sequence[str], progress: re.Pattern[str], unit: int, extra: Mapping[str, str], settings: Settings
) -> list[Mark]:
    """Run a trainer to its end; `progress` finds in its log lines how many times `unit` samples it has seen."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "CUDA_VISIBLE_DEVICES": "", **extra}
    environment.pop("FORCE_COLOR", None)  # it would turn our log lines into a progress bar
    marks, last = [], collections.deque[str](maxlen=15)
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as process:
        killer = threading.Timer(settings.timeout_seconds, process.kill)
        killer.start()
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line)
            if found := progress.search(line):
                marks.append(Mark(int(found.group(1)) * unit, time.perf_counter(), _cpu_seconds(process.pid)))
        code = process.wait()
        killer.cancel()
    if code:
        why = f"ended with status {code} after {time.perf_counter() - started:.0f} s"
        limit = f"(--timeout {settings.timeout_seconds:.0f})"
        raise BenchmarkError(f"{' '.join(command[:3])} … {why} {limit}; its last lines:\n{''.join(last)}")
    return marks


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a running process and its descendants so far."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):  # a worker that leaves now is counted by its parent next time
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
