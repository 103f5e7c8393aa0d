"""The facts that a result may depend on."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from contrastive.tracking.redaction import redacted_argument

PACKAGES = (
    *("contrastive-pretrain", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "accelerate"),
    *("webdataset", "numpy", "pillow", "faiss-cpu", "omegaconf"),
)
PACKAGE = Path(__file__).parents[1]


def environment(world_size: int, device: str, precision: str) -> dict[str, Any]:
    """Return what a result may depend on: versions, git revision, machine and launch."""
    accelerator = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *map(redacted_argument, sys.argv[1:])],
        "git_revision": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "code": code_fingerprint(),
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerator": accelerator,
        "world_size": world_size,
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def code_fingerprint() -> str:
    """Return a hash of this package's source: which code ran, also where it is installed and no git is near."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  (a fixed argument list)
            ["git", "-C", str(PACKAGE), *arguments],  # noqa: S607  (wherever git is installed)
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
