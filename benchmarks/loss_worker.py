"""One process of `loss.py`: a loss at one size that measures itself when told to.

It reads commands as JSON lines and answers with JSON lines, so that several losses can take turns while each has a
process of its own.
"""

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from loss_peers import IMPLEMENTATIONS, Inputs, Place
from loss_reference import SCALE, features, leaves
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WARM_UP_ROWS = 1024
MIB = 2**20


@dataclass(frozen=True)
class Job:
    """What a process works on. `rendezvous` is a file by which the ranks find each other."""

    loss: str
    n: int
    dim: int = 512
    device: str = "cpu"
    name: str = ""
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""


class Sent(TorchDispatchMode):
    """Counts the bytes that this rank sends, had every collective the volume of a ring."""

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.world_size, self.bytes = world_size, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func.name().partition("::")
        if space == "c10d":
            name, others = name.split(".")[0].strip("_"), self.world_size - 1
            share = others / self.world_size
            if name in ("allgather", "allgather_base"):
                self.bytes += others * _bytes(args[1])
            elif name in ("reduce_scatter", "reduce_scatter_base", "alltoall", "alltoall_base", "scatter"):
                self.bytes += share * _bytes(args[1])
            elif name == "allreduce":
                self.bytes += 2 * share * _bytes(args[0])
            elif name == "send":
                self.bytes += _bytes(args[0])
        return func(*args, **(kwargs or {}))


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0


class Subject:
    """A loss with its inputs; every command is one forward and backward pass, or a few on a GPU."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.place = Place(job.device, job.rank, job.world_size)
        self.implementation = IMPLEMENTATIONS[job.loss][job.name]
        self.call = self.implementation.build(self.place)
        own = job.n // job.world_size
        self.first = job.rank * own
        few = min(own, WARM_UP_ROWS)
        image, text = features(few * job.world_size, job.dim, job.device)
        part = slice(job.rank * few, (job.rank + 1) * few)
        for _ in range(2):
            self.run(leaves(image[part].clone(), text[part].clone(), SCALE, part.start))
        image, text = features(job.n, job.dim, job.device)
        part = slice(self.first, self.first + own)
        self.image, self.text = image[part].clone(), text[part].clone()

    def inputs(self, scale: float = SCALE) -> Inputs:
        """Return fresh leaves, without gradients, over the same features."""
        return leaves(self.image.detach(), self.text.detach(), scale, self.first)

    def run(self, inputs: Inputs) -> None:
        """Take one forward and backward pass."""
        mixed = self.implementation.autocast and inputs.image.dtype == torch.bfloat16
        context: AbstractContextManager[Any] = torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext()
        with context:
            loss = self.call(inputs)
        loss.backward()

    def peak(self, reference: str = "") -> dict[str, Any]:
        """Measure the growth of memory over one pass, gradients included, and compare them where a reference is."""
        inputs = self.inputs()
        if self.job.device == "cuda":
            self.run(self.inputs())  # workspaces and kernels
        with _growth(self.job.device) as growth:
            times = self.timed(lambda: self.run(inputs))
        return {"mib": growth[0] / MIB, **times, **self.compare(inputs, reference)}

    def time(self) -> dict[str, float]:
        """Measure the time of a pass, with the allocator as glibc's own rules would leave it after a few passes."""
        if self.job.device == "cpu":
            _allocator(32 * MIB)
            return self.timed(lambda: self.run(self.inputs()))
        self.run(self.inputs())
        repeats = 3

        def passes() -> None:
            for _ in range(repeats):
                self.run(self.inputs())

        found = self.timed(passes)
        return {name: value / repeats for name, value in found.items()}

    def timed(self, work: Callable[[], object]) -> dict[str, float]:
        """Return wall seconds (on a GPU between two events) and those of all processor threads."""
        if self.job.world_size > 1:
            dist.barrier()
        if self.job.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            cpu = time.process_time()
            work()
            end.record()
            torch.cuda.synchronize()
            return {"seconds": begin.elapsed_time(end) / 1000, "cpu_seconds": time.process_time() - cpu}
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}

    def error(self, reference: str, scale: float) -> dict[str, float]:
        """Compare the gradients at a scale with the exact ones."""
        inputs = self.inputs(scale)
        self.run(inputs)
        return self.compare(inputs, reference)

    def sent(self) -> dict[str, float]:
        """Count what this rank sends in a pass."""
        with Sent(self.job.world_size) as sent:
            self.run(self.inputs())
        return {"sent_mib": sent.bytes / MIB}

    def compare(self, inputs: Inputs, reference: str) -> dict[str, float]:
        """Return how far this rank's sampled rows are off, and the relative error of the gradients of scale and bias.

        Of the rows, the squared lengths of the difference and of the exact gradient: other ranks have other rows. The
        loss is the mean of what the ranks return, so a row's gradient here is `world_size` times the true one.
        """
        if not reference:
            return {}
        true = torch.load(reference)
        mine = (true["rows"] >= self.first) & (true["rows"] < self.first + len(inputs.image))
        assert inputs.image.grad is not None
        assert inputs.logit_scale.grad is not None
        rows = true["rows"][mine].to(inputs.image.device) - self.first
        found = inputs.image.grad[rows].double().cpu() / self.job.world_size
        scalars = torch.cat([x.grad if x.grad is not None else torch.zeros_like(x) for x in inputs.leaves()[2:]])
        if self.job.world_size > 1:
            dist.all_reduce(scalars)
            scalars /= self.job.world_size
        expected = torch.stack([true["scale"].reshape(()), true["bias"].reshape(())])
        off = (scalars.double().cpu() - expected).abs() / expected.abs().clamp_min(torch.finfo(torch.float64).tiny)
        squares = [(found - true["image"][mine]).square().sum(), true["image"][mine].square().sum()]
        of_scalars = off[: 2 if self.job.loss == "sigmoid" else 1].max()
        return {"difference": squares[0].item(), "norm": squares[1].item(), "scale_error": of_scalars.item()}


@contextmanager
def _growth(device: str) -> Iterator[list[int]]:
    """Yield a list that holds, afterwards, by how many bytes memory grew at its peak."""
    growth = [0]
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield growth
        growth[0] = torch.cuda.max_memory_allocated() - before
        return
    _allocator(MIB)  # every tensor of a size that counts is returned when it is freed, whatever came before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    yield growth
    growth[0] = _resident("VmHWM") - before


def _allocator(threshold: int) -> None:
    """Set from which size on glibc's allocator asks the system, and how much free memory it may keep."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, threshold)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 2 * threshold)  # M_TRIM_THRESHOLD


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def serve(job: Job) -> None:
    """Answer commands until there are none; a failure is the last answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print must not mix with the answers

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        if sys.platform == "linux":
            Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go, before anybody else's work
        if job.world_size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{job.rendezvous}", rank=job.rank, world_size=job.world_size
            )
        subject = Subject(job)
        found: dict[str, Any] = {}
        while True:
            if job.device == "cuda":
                torch.cuda.empty_cache()  # the other losses wait on the same GPU
            answer(found)
            line = sys.stdin.readline()
            if not line:
                return
            command = json.loads(line)
            found = getattr(subject, command.pop("do"))(**command)
    except Exception as error:  # noqa: BLE001  (a peer may raise anything, and it is a row of the table)
        first = (str(error).strip() or "no message").splitlines()[0]
        answer({"failed": f"{type(error).__name__}: {first[:160]}"})
        sys.exit(1)


if __name__ == "__main__":
    serve(Job(**json.loads(sys.argv[1])))
