"""What `loss.py` measured, as tables, goals and figures."""

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from loss_peers import BASELINE, CONTROL, peer_versions
from rich.table import Table

AT_MOST = {
    "infonce_time_16384": 0.6,
    "infonce_mib_16384": 200.0,
    "infonce_mib_65536": 1024.0,
    "sigmoid_time_8192": 0.7,
    "sigmoid_memory_8192": 0.1,
    "error_excess": 1.0,
}
ERROR_FLOOR = 2e-6  # of a gradient in float32: below it nobody is better than anybody


@dataclass
class Row:
    """One loss at one size. Times are one entry a round; errors one a scale; a `reason` says why something lacks."""

    loss: str
    name: str
    n: int
    world_size: int = 1
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    mib: float | None = None
    error: dict[str, float] = field(default_factory=dict)
    scale_error: dict[str, float] = field(default_factory=dict)
    sent_mib: float | None = None
    reason: str = ""

    def teraflops(self, dim: int) -> float | None:
        """Return 8 N^2 D, the work of the exact loss in tiles, over the time: comparable whatever a loss computes."""
        return 8 * self.n**2 * dim / median(self.seconds) / 1e12 if self.seconds else None


def ratio(row: Row, rows: Iterable[Row], times: str = "seconds") -> float | None:
    """Return the median over rounds of a row's time over the baseline's of the same round, or None."""
    base = _same(row, BASELINE, rows)
    pairs = zip(getattr(row, times), getattr(base, times), strict=False) if base is not None else ()
    found = [own / other for own, other in pairs if other]
    return median(found) if found else None


def _same(row: Row, name: str, rows: Iterable[Row]) -> Row | None:
    place = (row.loss, name, row.n, row.world_size)
    return next((other for other in rows if (other.loss, other.name, other.n, other.world_size) == place), None)


def tables(rows: Sequence[Row], device: str, dim: int) -> Iterator[Table]:
    """Yield a table for each loss and number of processes."""
    for loss, world_size in dict.fromkeys((row.loss, row.world_size) for row in rows):
        own = [row for row in rows if (row.loss, row.world_size) == (loss, world_size)]
        ranks = (
            f", {world_size} processes of one thread: time and MiB of the slower or larger" if world_size > 1 else ""
        )
        grid = Table(title=f"{loss}, forward and backward, D = {dim}{ranks}")
        unit = "ms" if device == "cuda" else "seconds"
        extra = ["TFLOP/s"] if device == "cuda" else ["MiB sent"] if world_size > 1 else []
        for heading in ("N", "loss"):
            grid.add_column(heading, no_wrap=True)
        for heading in (unit, "ratio", "CPU ratio", "MiB", "error", "at 100", "scale error", "at 100", *extra):
            grid.add_column(heading, justify="right", no_wrap=True)
        grid.add_column("note")
        for n in dict.fromkeys(row.n for row in own):
            for row in (row for row in own if row.n == n):
                grid.add_row(*_cells(row, rows, device, dim, bool(extra)), style="bold" if row.name == "ours" else "")
            grid.add_section()
        yield grid


def _cells(row: Row, rows: Sequence[Row], device: str, dim: int, has_extra: bool) -> list[str]:
    middle = median(row.seconds) if row.seconds else None
    time_cell = _written(None if middle is None else 1000 * middle, 2) if device == "cuda" else _written(middle, 3)
    of_time, of_cpu = (_written(ratio(row, rows, times), 2) for times in ("seconds", "cpu_seconds"))
    errors = [_written(of.get(scale)) for of in (row.error, row.scale_error) for scale in ("14", "100")]
    extra = [_written(row.teraflops(dim) if device == "cuda" else row.sent_mib, 1)] if has_extra else []
    return [str(row.n), row.name, time_cell, of_time, of_cpu, _written(row.mib, 0), *errors, *extra, row.reason]


def _written(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if digits is None else f"{value:,.{digits}f}"


def error_excess(rows: Sequence[Row]) -> float | None:
    """Return our worst gradient error over what is allowed: twice that of the plain loss, or the floor."""
    found = []
    for row in rows:
        control = _same(row, CONTROL, rows) or _same(row, BASELINE, rows)
        for scale, error in row.error.items() if row.name == "ours" else ():
            allowed = 2 * control.error.get(scale, 0.0) if control is not None else 0.0
            found.append(error / max(allowed, ERROR_FLOOR))
    return max(found, default=None)


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the last line's figures; those of several processes end in `_xW`, `time` and `memory` are ratios."""
    found: dict[str, float | None] = {}
    for row in rows:
        size = f"{row.n}" if row.world_size == 1 else f"{row.n}_x{row.world_size}"
        if row.name == BASELINE:
            prefix = BASELINE if row.loss == "infonce" else f"{BASELINE}_{row.loss}"
            found[f"{prefix}_mib_{size}"] = row.mib
        if row.name == "ours":
            base = _same(row, BASELINE, rows)
            found[f"{row.loss}_time_{size}"] = ratio(row, rows)
            found[f"{row.loss}_cpu_{size}"] = ratio(row, rows, "cpu_seconds")
            found[f"{row.loss}_mib_{size}"] = row.mib
            if base is not None and base.mib and row.mib is not None:
                found[f"{row.loss}_memory_{size}"] = row.mib / base.mib
    found["error_excess"] = error_excess(rows)
    found |= {f"largest_{name}": float(n) for name, n in largest(rows).items()}
    return {name: value for name, value in found.items() if value is not None}


def largest(rows: Sequence[Row]) -> dict[str, int]:
    """Return the largest batch that each InfoNCE loss finished in one process."""
    done = [row for row in rows if row.loss == "infonce" and row.world_size == 1 and row.mib is not None]
    return {name: max(row.n for row in done if row.name == name) for name in dict.fromkeys(row.name for row in done)}


def verdicts(found: dict[str, float], rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return which goals were missed, with the numbers, or by our failing; and which could not be judged."""
    missed = [
        f"{row.loss} at N = {row.n}: ours gave up: {row.reason}" for row in rows if row.name == "ours" and row.reason
    ]
    missed += [
        f"{name} is {found[name]:.3g}, above {limit:g}"
        for name, limit in AT_MOST.items()
        if found.get(name, limit) > limit
    ]
    return missed, [name for name in AT_MOST if name not in found]


def last_line(found: dict[str, float]) -> str:
    """Return `name=value` figures on one line, for scripts."""
    return " ".join(f"{name}={_figure(value)}" for name, value in found.items())


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def record(rows: Sequence[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    found = figures(rows)
    missed, unjudged = verdicts(found, rows)
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": found, "goals": AT_MOST, "missed": missed, "not_judged": unjudged,
        "rows": [{**asdict(row), "ratio": ratio(row, rows), "cpu_ratio": ratio(row, rows, "cpu_seconds")}
                 for row in rows],
        "settings": settings, "versions": peer_versions(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "processor": _processor()},
    }  # fmt: skip


def _processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
