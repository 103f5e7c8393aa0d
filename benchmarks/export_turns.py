"""Writes the exports of `export.py`, starts a process for each, and lets them take turns."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from trainers import ROOT, BenchmarkError

from contrastive.errors import ModelError, UserError
from contrastive.export.folder import check_requirements
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.registry import EXPORTERS, build

EAGER = "eager"
SIDES: dict[str, tuple[str, dict[str, Any], str]] = {  # name: format, its options, what loads it ("": size only)
    EAGER: ("safetensors", {}, "eager"),
    "open_clip": ("open_clip", {}, "open_clip"),
    "transformers": ("transformers", {}, "transformers"),
    "timm": ("timm", {}, "timm"),
    "onnx": ("onnx", {}, "onnx"),
    "onnx_int8": ("onnx_int8", {"calibration": "dynamic"}, "onnx"),
    "onnx_int8_static": ("onnx_int8", {"calibration": "static"}, "onnx"),
    "torch_export": ("torch_export", {}, "torch_export"),
    "torchao_int8": ("torchao_int8", {}, "transformers"),
}
WEIGHTS = (".safetensors", ".onnx", ".data", ".pt2")  # what counts as size: tokenizers are the same everywhere
TOWERS = ("image", "text")


@dataclass
class Row:
    """One side. Times are by (tower, batch), a list of calls for every round; a `reason` says why something lacks."""

    side: str
    bytes: int = 0
    load_seconds: float | None = None
    seconds: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)
    cpu_seconds: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)
    cosine: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """How much is measured: `calls` of a batch size in a turn, and so many rounds of turns."""

    sides: Sequence[str]
    calls: dict[int, int]
    rounds: int
    threads: int
    timeout_seconds: float


def measure(source: Source, probe: Probe, plan: Plan, scratch: Path, console: Console) -> list[Row]:
    """Return a row for every side; one that cannot be written or loaded says why.

    Raises:
        BenchmarkError: the eager model itself cannot be measured.
    """
    inputs = write_inputs(source, probe, max(plan.calls), scratch)
    rows = [Row(side) for side in plan.sides]
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for row in rows:  # each process starts while the next export is written
            folder = write(row, source, probe, scratch / row.side, console)
            if folder is not None:
                workers[row.side] = stack.enter_context(contextlib.closing(Worker(row.side, folder, inputs, plan)))
        for row in rows:
            ask(row, workers, None)
        take_turns(rows, workers, plan, console)
        compare(rows, workers, scratch)
    if rows[0].side == EAGER and rows[0].reason:
        raise BenchmarkError(f"{EAGER}: {rows[0].reason}")
    return rows


def write_inputs(source: Source, probe: Probe, count: int, scratch: Path) -> tuple[str, str]:
    """Write `count` preprocessed images and tokenised captions, and return the files."""
    transform, texts = source.built.preprocess.evaluation_transform(), probe.texts
    pixels = [transform(probe.images[number % len(probe.images)]).numpy() for number in range(count)]
    np.save(scratch / "pixels.npy", np.stack(pixels))
    np.save(scratch / "ids.npy", source.built.tokenizer([texts[n % len(texts)] for n in range(count)]).numpy())
    return str(scratch / "pixels.npy"), str(scratch / "ids.npy")


def write(row: Row, source: Source, probe: Probe, folder: Path, console: Console) -> Path | None:
    """Write a side's export, and return its folder; where it cannot be written the row says why.

    It is not verified: that is what `contrastive export` and the tests do.
    """
    name, options, _ = SIDES[row.side]
    start = time.perf_counter()
    try:
        exporter = build(EXPORTERS, {"name": name, **options}, "--to")
        check_requirements(name, exporter)
        exporter.check(source)
        folder.mkdir()
        exporter.write(source, folder, probe)
    except (UserError, ImportError) as error:
        row.reason = f"skipped: {error}"
        return None
    row.bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in WEIGHTS)
    console.print(f"{row.side}: written in {time.perf_counter() - start:.1f} s, {row.bytes / 1e6:.1f} MB")
    return folder


class GaveUpError(Exception):
    """A process failed; the message says why."""


class Worker:
    """The process of one side: told what to do, and heard."""

    def __init__(self, side: str, folder: Path, inputs: tuple[str, str], plan: Plan) -> None:
        self.timeout_seconds = plan.timeout_seconds
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        loader = SIDES[side][2]
        script = Path(__file__).with_name("export_worker.py")
        # -P: neither this folder, whose names may be those of libraries, nor the working directory is on the path.
        words = [sys.executable, "-P", str(script), loader, str(folder), str(plan.threads), *inputs]
        self.process = subprocess.Popen(
            words, env=variables(loader, plan.threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.said, text=True, cwd=folder,
        )  # fmt: skip

    def ask(self, command: dict[str, Any] | None) -> dict[str, Any]:
        """Return the answer to a command; None: that it is loaded.

        Raises:
            GaveUpError: it failed, ended without an answer, or took too long.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(self.timeout_seconds, self.process.kill)
        timer.start()
        try:
            if command is not None:
                self.process.stdin.write(json.dumps(command) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise GaveUpError(f"ended with status {self.process.wait()}: {self._last_line()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_line(self) -> str:
        self.said.seek(0)
        lines = [line for line in self.said.read().splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no message; out of memory or of time"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.said.close()


def variables(loader: str, threads: int) -> dict[str, str]:
    """Return the environment of a process. Threads sleep while they wait: it is the turn of another process then."""
    given = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    own = {**os.environ, **given, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    own.pop("PYTHONPATH", None)
    return {**own, "PYTHONPATH": str(ROOT)} if loader == EAGER else own


def ask(row: Row, workers: dict[str, Worker], command: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a side's answer; one that gives up leaves its turns, and its row says why."""
    if row.side not in workers:
        return None
    try:
        answer = workers[row.side].ask(command)
    except GaveUpError as error:
        row.reason = str(error)
        del workers[row.side]
        return None
    if command is None:
        row.load_seconds = answer["loaded"]
    return answer


def places(row: Row) -> list[str]:
    """Return the towers that a side holds."""
    return ["image"] if row.side == "timm" else list(TOWERS)


def take_turns(rows: Sequence[Row], workers: dict[str, Worker], plan: Plan, console: Console) -> None:
    """Let every side compute every tower and batch in turn; each other round backwards."""
    for number in range(plan.rounds):
        for tower, batch in turns(plan):
            for row in rows[:: 1 if number % 2 == 0 else -1]:
                command = {"do": "time", "tower": tower, "batch": batch, "calls": plan.calls[batch]}
                answer = ask(row, workers, command) if tower in places(row) else None
                if answer is not None:
                    row.seconds.setdefault((tower, batch), []).append(answer["seconds"])
                    row.cpu_seconds.setdefault((tower, batch), []).append(answer["cpu_seconds"])
        console.print(f"round {number + 1}/{plan.rounds}")


def turns(plan: Plan) -> Iterator[tuple[str, int]]:
    """Yield (tower, batch)."""
    yield from ((tower, batch) for tower in TOWERS for batch in plan.calls)


def compare(rows: Sequence[Row], workers: dict[str, Worker], scratch: Path) -> None:
    """Note the least cosine of each side's features to the eager ones: what is fast and wrong does not count."""
    expected: dict[str, NDArray[Any]] = {}
    for row in rows:
        for tower in places(row):
            out = scratch / f"{row.side}-{tower}.npy"
            if ask(row, workers, {"do": "embed", "tower": tower, "out": str(out)}) is None:
                continue
            found = np.load(out).astype(np.float64)
            found /= np.linalg.norm(found, axis=1, keepdims=True)
            expected.setdefault(tower, found)
            row.cosine[tower] = float((found * expected[tower]).sum(1).min())


def require_known(names: Sequence[str]) -> None:
    """Refuse sides that there are not.

    Raises:
        ModelError: naming them.
    """
    if unknown := [name for name in names if name not in SIDES]:
        raise ModelError(f"--formats: {unknown[0]!r} is not one of {', '.join(SIDES)}")
