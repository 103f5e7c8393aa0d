"""CLIP_benchmark in an environment of its own, and the command that runs it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from trainers import ROOT, peer_environment

# numpy 2.4 refuses what it does in metrics/zeroshot_classification.py:82; requests it imports without asking for it.
# torch, open_clip and webdataset are ours: both sides run on the same ones.
PACKAGES = (
    "clip_benchmark==1.6.2", "numpy==2.3.5", "pycocoevalcap==1.2", "requests==2.32.5", "urllib3==2.5.0", "idna==3.10",
    "certifi==2025.10.5", "charset-normalizer==3.4.3",
)  # fmt: skip
CACHE = ROOT / ".cache" / "benchmarks"


def environment(console: Console, cache: Path = CACHE) -> Path:
    """Return the folder of its packages, to be put before ours on the path; made once."""
    return peer_environment(cache / "clip_benchmark", console, PACKAGES)


def variables(packages: Path | None, threads: int = 1) -> dict[str, str]:
    """Return the environment variables of a process, the peer's or (None) ours: no GPU, no hub, threads that sleep.

    Threads that spin while they wait burn the processor time of whoever else is there.
    """
    shared = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"}
    own = {} if packages is None else {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **shared, **own, "OMP_NUM_THREADS": str(threads)}


def command(model: str, dataset: str, root: Path, output: Path, options: Mapping[str, object]) -> Sequence[str]:
    """Return the command line of one evaluation in full precision; `options` as `batch_size`, lists with blanks."""
    given = {"model": model, "pretrained": "", "dataset": dataset, "dataset_root": root, "output": output, **options}
    words = [word for name, value in given.items() for word in (f"--{name}", *_words(value))]
    return [sys.executable, "-m", "clip_benchmark.cli", "eval", *words, "--no_amp", "--quiet"]


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
