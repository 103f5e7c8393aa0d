"""What a run writes down: metrics as JSONL and TensorBoard, its environment, and a progress line for people."""

import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("contrastive")
PACKAGES = (
    *("contrastive-pretrain", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "accelerate"),
    *("webdataset", "numpy", "pillow", "faiss-cpu", "omegaconf"),
)


class Tracker:
    """Appends one JSON object a record to `metrics.jsonl`, and the numbers of it to TensorBoard where installed."""

    def __init__(self, directory: Path, tensorboard: bool) -> None:
        self._file = (directory / "metrics.jsonl").open("a", buffering=1)  # a line is on disk as soon as it is whole
        self._writer: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"))

    def record(self, kind: str, step: int, values: Mapping[str, Any], prefix: str = "") -> None:
        """Write one record; numbers that are not finite become null, which JSON can hold."""
        row = {"kind": kind, "step": step, **{k: _plain(v) for k, v in values.items()}}
        self._file.write(json.dumps(row) + "\n")
        if self._writer is None:
            return
        for name, value in _numbers(values, prefix or kind):
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class ProgressLine:
    """A live bar on a terminal; elsewhere the same figures as plain log lines, which suit job logs."""

    def __init__(self, total: int, enabled: bool) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        self.enabled, self.total, self._started = enabled, total, time.monotonic()
        if enabled and console.is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the figures of `step`, of which there are `total`."""
        if not self.enabled:
            return
        line = (
            f"loss {values['loss']:.3f}  {values['samples_per_second']:,.0f} samples/s  "
            f"data wait {values['data_wait_share']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
            return
        left = (time.monotonic() - self._started) / max(step, 1) * (self.total - step)
        log.info("step %d/%d  %s  %s left", step, self.total, line, _minutes(left))


class CountLine:
    """Tells how many of how many are done: a bar on a terminal, else a line now and then; nothing for short work."""

    EVERY_SECONDS = 10.0

    def __init__(self, what: str, enabled: bool = True) -> None:
        self.what, self.enabled = what, enabled
        self._bar: Progress | None = None
        self._console = Console(stderr=True)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "CountLine":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it got; may be called as often as one likes."""
        now = time.monotonic()
        if not self.enabled or now - self._started < 1:
            return
        if self._console.is_terminal:
            self._draw(done, total)
        elif now - self._said >= self.EVERY_SECONDS:
            self._said = now
            left = (now - self._started) / max(done, 1) * (total - done)
            log.info("%s %s/%s  %s left", self.what, f"{done:,}", f"{total:,}", _minutes(left))

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self.what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)


def environment(world_size: int, device: str, precision: str) -> dict[str, Any]:
    """Return what a result may depend on: versions, git revision, machine and launch."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    accelerator = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_revision": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerator": accelerator,
        "world_size": world_size,
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "packages": versions,
    }


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(  # noqa: S603  (a fixed argument list)
            ["git", "-C", str(here), *arguments],  # noqa: S607  (wherever git is installed)
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _numbers(values: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}/{name}", float(value)))
    return found


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
