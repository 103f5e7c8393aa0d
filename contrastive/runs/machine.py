"""What a run may use of the machine it is on: precision, threads, processes."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from contrastive import distributed


def resolve_precision(wanted: str) -> str:
    """Return accelerate's word for a precision; auto takes bf16 where the processor multiplies it natively."""
    if wanted != "auto":
        return "no" if wanted == "fp32" else wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bf16" if "amx_bf16" in flags or "avx512_bf16" in flags else "no"


def accelerator(precision: str, start_seconds: float = 1800.0) -> Accelerator:
    """Return the Accelerator of this launch, whose processes wait for each other for `start_seconds` at most.

    What it finds no accelerator for runs on the CPU.
    """
    handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        InitProcessGroupKwargs(timeout=timedelta(seconds=start_seconds)),
    ]
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    return Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available(), kwargs_handlers=handlers)


def set_threads(wanted: int | None) -> None:
    """Give this process `wanted` CPU threads, or its share of the cores that the launch may use."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(distributed.world_size())))
    torch.set_num_threads(wanted or max(1, cores() // here))


def cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
