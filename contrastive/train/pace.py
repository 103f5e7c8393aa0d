"""How fast a run goes: throughput, what a step takes, what it waits for, how much memory it holds, and who is slow."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

SLOW_FACTOR = 3.0  # a rank this many times as slow as the others' median is a straggler …
SLOW_SHARE = 0.1  # … if that costs the step more than this share: three times next to nothing is nothing
GIGA = 1e9


class Clock(Protocol):
    """Marks in the course of the work, and how far apart they lie."""

    def mark(self) -> Any:
        """Return a mark at this point of the work."""

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks; the host may have to wait until the second has been reached."""


class HostClock:
    """Time as the host sees it. It only goes forward, whatever is done to the machine's date."""

    def mark(self) -> float:
        """Return now."""
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """Return the seconds between two marks."""
        return end - start


class DeviceClock:
    """Time as the device sees it: the host runs ahead of a GPU, so that its own times tell nothing of single steps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.Event:
        """Record an event behind the work that has been given to the device so far."""
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.Event, end: torch.Event) -> float:
        """Return the seconds between two events."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


class Pace:
    """Clock of the steps since the last log line.

    Every rank has its own. `seconds_before` are those of the run's earlier launches. `flops_per_step` (see
    `contrastive.train.flops`) is this rank's work in a step and `peak_flops` what its device could do in a second;
    both may be set later, and without them there is no `mfu`. `own_seconds` tells, once `figures` has been called, the
    mean time from the start of a step to `arrived`, 0 where nothing arrived.
    """

    def __init__(self, world_batch: int, *, seconds_before: float = 0.0, device: torch.device | None = None) -> None:
        self.world_batch, self.seconds_before = world_batch, seconds_before
        self.flops_per_step: float | None = None
        self.peak_flops: float | None = None
        self.own_seconds = 0.0
        self._device = device if device is not None and device.type == "cuda" else None
        self._clock: Clock = HostClock() if self._device is None else DeviceClock(self._device)
        self._process = psutil.Process()
        self._started = self._since = time.perf_counter()
        self._waited = 0.0
        self._begin = self._clock.mark()  # of the step that is under way
        self._has_arrived = False
        self._steps: list[tuple[Any, Any]] = []
        self._arrivals: list[tuple[Any, Any]] = []

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - before

    def arrived(self) -> None:
        """Say that this rank's own work is done up to the step's first exchange with other ranks.

        What comes later takes as long on every rank as on the slowest, and would not tell which one that is: of a
        step's calls the first counts.
        """
        if not self._has_arrived:
            self._arrivals.append((self._begin, self._clock.mark()))
        self._has_arrived = True

    def step_done(self) -> None:
        """Say that a step has ended and the next begins."""
        end = self._clock.mark()
        self._steps.append((self._begin, end))
        self._begin, self._has_arrived = end, False

    def pause(self, work: Callable[[], None]) -> None:
        """Run `work` (a save, an evaluation) off the clock, between two steps."""
        before = time.perf_counter()
        work()
        self._since += time.perf_counter() - before
        self._begin = self._clock.mark()

    def figures(self) -> dict[str, float]:
        """Return the figures since the last call, and begin again.

        `samples_per_second` of all ranks; `data_wait_share` in 0..1; `step_seconds`, the mean, and of the single steps
        the median, the 95th percentile and the longest; `seconds`, the age of the run over all launches;
        `memory_gigabytes`, what this process alone holds of the host's memory now. On a GPU single steps are timed by
        the device, and there is `device_memory_gigabytes`, the most that tensors held. `mfu` in 0..1 is the share of
        the device's peak that the model's own work took (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): waiting
        counts against it, and so does what is computed twice.
        """
        now, steps = time.perf_counter(), len(self._steps)
        elapsed = max(now - self._since, 1e-9)
        figures = {
            "samples_per_second": steps * self.world_batch / elapsed,
            "data_wait_share": self._waited / elapsed,
            "step_seconds": elapsed / max(steps, 1),
            **self._single_steps(),
            "seconds": self.seconds_before + now - self._started,
            **self._memory(),
        }
        if self.flops_per_step is not None and self.peak_flops is not None:
            figures["mfu"] = self.flops_per_step * steps / elapsed / self.peak_flops
        self.own_seconds = statistics.fmean(self._durations(self._arrivals) or [0.0])
        self._since, self._waited = now, 0.0
        self._steps, self._arrivals = [], []
        return figures

    def _single_steps(self) -> dict[str, float]:
        seconds = self._durations(self._steps)
        if not seconds:
            return {}
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        return {"step_seconds_p50": p50, "step_seconds_p95": p95, "step_seconds_max": max(seconds)}

    def _durations(self, intervals: Sequence[tuple[Any, Any]]) -> list[float]:
        return [self._clock.seconds(start, end) for start, end in intervals]

    def _memory(self) -> dict[str, float]:
        held = {"memory_gigabytes": self._process.memory_info().rss / GIGA}
        if self._device is not None:
            held["device_memory_gigabytes"] = torch.cuda.max_memory_allocated(self._device) / GIGA
            torch.cuda.reset_peak_memory_stats(self._device)
        return held


def straggler(own: Sequence[float], step_seconds: float, hosts: Sequence[str]) -> str | None:
    """Return the line that names the rank which holds up the others, if there is one.

    `own` is every rank's `Pace.own_seconds`, `step_seconds` the mean step, `hosts` every rank's machine.
    """
    if len(own) < 2:
        return None
    slowest = max(range(len(own)), key=own.__getitem__)
    median = statistics.median(seconds for rank, seconds in enumerate(own) if rank != slowest)
    seconds = own[slowest]
    if seconds <= SLOW_FACTOR * median or seconds - median <= SLOW_SHARE * step_seconds:
        return None
    own_part = f"{seconds:.2g} s from the start of a step to its features"
    return f"rank {slowest} ({hosts[slowest]}) is slow: {own_part}, the median of the others is {median:.2g} s"
