"""What `export.py` measured, as tables, figures, goals and a plot."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from export_turns import EAGER, TOWERS, Row
from rich.table import Table

AT_MOST = {"onnx_int8_size": 0.35, "onnx_int8_time_32": 0.7, "onnx_time": 1.15}
LEAST = {"onnx_cosine": 0.9999, "onnx_int8_cosine": 0.99}
TIMES = ("onnx_int8_time_32", "onnx_time")  # not judged on a small model
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}  # instructions without which int8 is not faster
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "open_clip_torch", "timm", "torchao", "transformers")


def percentile(row: Row, place: tuple[str, int], share: int) -> float | None:
    """Return the `share`-th percentile of all calls in milliseconds, or None where there are none."""
    calls = sorted(1000 * one for turn in row.seconds.get(place, []) for one in turn)
    if len(calls) < 2:
        return calls[0] if calls else None
    return quantiles(calls, n=100, method="inclusive")[share - 1]


def ratio(row: Row, rows: Sequence[Row], place: tuple[str, int], times: str = "seconds") -> float | None:
    """Return the median over rounds of a side's middle call over the eager one of the same round, or None."""
    eager = next(one for one in rows if one.side == EAGER)
    turns = zip(getattr(row, times).get(place, []), getattr(eager, times).get(place, []), strict=False)
    found = [median(own) / median(theirs) for own, theirs in turns if median(theirs)]
    return median(found) if found else None


def places_of(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return the towers and batches that were measured."""
    return list(next(row for row in rows if row.side == EAGER).seconds)


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the last line's figures; `time` are ratios to eager PyTorch, the worst of towers and batches."""
    sides, found = {row.side: row for row in rows}, {}
    for row in rows:
        if row.side == EAGER:
            continue
        for place in places_of(rows):
            value = ratio(row, rows, place)
            if value is not None:
                found[f"{row.side}_{place[0]}_{place[1]}"] = value
    for name in ("onnx", "onnx_int8"):
        own = [(place, ratio(sides[name], rows, place)) for place in places_of(rows)] if name in sides else []
        known = {place: value for place, value in own if value is not None}
        if known:
            found[f"{name}_time"] = max(known.values())
            found |= {f"{name}_time_{b}": max(v for p, v in known.items() if p[1] == b) for b in {p[1] for p in known}}
        if name in sides and sides[name].cosine:
            found[f"{name}_cosine"] = min(sides[name].cosine.values())
    if "onnx" in sides and "onnx_int8" in sides and sides["onnx"].bytes and sides["onnx_int8"].bytes:
        found["onnx_int8_size"] = sides["onnx_int8"].bytes / sides["onnx"].bytes
    return found


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return which of the int8 instructions this processor has."""
    return VNNI & set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()


def verdicts(found: dict[str, float], quick: bool, has: set[str]) -> tuple[list[str], list[str]]:
    """Return which goals were missed, and which were not judged and why."""
    missed, unjudged = [], []
    for name, limit in {**AT_MOST, **LEAST}.items():
        if name not in found:
            unjudged.append(f"{name}: was not measured")
        elif quick and name in TIMES:
            unjudged.append(f"{name}: the model of a quick run is too small")
        elif name == "onnx_int8_time_32" and not has:
            unjudged.append(f"{name}: this processor has none of {', '.join(sorted(VNNI))}")
        elif not (found[name] <= limit if name in AT_MOST else found[name] >= limit):
            missed.append(f"{name} is {found[name]:.4g}, {'above' if name in AT_MOST else 'below'} {limit:g}")
    return missed, unjudged


def table(rows: Sequence[Row], tower: str, threads: int) -> Table:
    """Return latency and throughput of a tower."""
    grid = Table(title=f"{tower} tower, {threads} threads, ms a call (ratio: to eager PyTorch, median over rounds)")
    batches = [batch for name, batch in places_of(rows) if name == tower]
    grid.add_column("format", no_wrap=True)
    for heading in ("MB", *(f"{what} x{b}" for b in batches for what in ("p50", "p95", f"{tower}s/s", "ratio", "CPU"))):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("cosine", justify="right")
    for row in rows:
        cells = [cell for batch in batches for cell in _cells(row, rows, (tower, batch))]
        cosine = f"{row.cosine[tower]:.5f}" if tower in row.cosine else "-"
        size = f"{row.bytes / 1e6:,.1f}" if row.bytes else "-"
        grid.add_row(row.side, size, *cells, cosine, style="bold" if row.side == EAGER else "")
    return grid


def _cells(row: Row, rows: Sequence[Row], place: tuple[str, int]) -> list[str]:
    middle, slow = percentile(row, place, 50), percentile(row, place, 95)
    rate = None if middle is None else 1000 * place[1] / middle
    ratios = [ratio(row, rows, place, times) for times in ("seconds", "cpu_seconds")]
    digits = (2, 2, 0, 2, 2)
    given = zip((middle, slow, rate, *ratios), digits, strict=True)
    return ["-" if value is None else f"{value:,.{places}f}" for value, places in given]


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the middle latency by format, tower and batch, with whiskers to the 95th percentile and the sizes."""
    from matplotlib.figure import Figure

    batches = sorted({batch for _, batch in places_of(rows)})
    shown = [row for row in rows if row.seconds]
    figure = Figure(figsize=(7 * len(batches), 0.45 * len(shown) * len(TOWERS) + 2), layout="constrained")
    axes = figure.subplots(len(TOWERS), len(batches), squeeze=False)
    for line, tower in enumerate(TOWERS):
        for column, batch in enumerate(batches):
            own = [row for row in shown if (tower, batch) in row.seconds]
            middle = [percentile(row, (tower, batch), 50) or 0.0 for row in own]
            slow = [percentile(row, (tower, batch), 95) or 0.0 for row in own]
            labels = [f"{row.side}, {row.bytes / 1e6:.0f} MB, {m:.2f} ms" for row, m in zip(own, middle, strict=True)]
            panel = axes[line][column]
            ends = [[0.0] * len(own), [max(0.0, s - m) for s, m in zip(slow, middle, strict=True)]]
            colours = ["#888888" if row.side == EAGER else "#3b6ea8" for row in own]
            panel.barh(labels, middle, xerr=ends, color=colours, capsize=3)
            panel.invert_yaxis()
            panel.set_title(f"{tower} tower, batch {batch}")
            panel.set_xlabel("ms a call: bar 50th, whisker 95th percentile")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def record(rows: Sequence[Row], found: dict[str, float], verdict: tuple[list[str], list[str]], settings: Any) -> Any:
    """Return everything a reader needs to repeat or doubt the figures."""
    return {
        "date": time.strftime("%Y-%m-%d"), "figures": found, "goals": {"at_most": AT_MOST, "least": LEAST},
        "missed": verdict[0], "not_judged": verdict[1], "rows": [_plain(row, rows) for row in rows],
        "settings": settings, "versions": {name: _version(name) for name in PACKAGES},
        "machine": {"platform": platform.platform(), "processor": _processor(), "int8": sorted(flags())},
    }  # fmt: skip


def _plain(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(row).items() if name not in ("seconds", "cpu_seconds")}
    measured = {
        f"{tower}_{batch}": {
            "p50_ms": percentile(row, (tower, batch), 50), "p95_ms": percentile(row, (tower, batch), 95),
            "ratio": ratio(row, rows, (tower, batch)), "cpu_ratio": ratio(row, rows, (tower, batch), "cpu_seconds"),
            "ms": [[round(1000 * one, 4) for one in turn] for turn in turns],
        }
        for (tower, batch), turns in row.seconds.items()
    }  # fmt: skip
    return {**plain, "latency": measured}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
