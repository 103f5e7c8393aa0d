"""Starts the processes of `loss.py`, lets them take turns, and notes what they answer."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from loss_peers import IMPLEMENTATIONS, peak_bytes
from loss_reference import SCALE
from loss_report import Row
from trainers import ROOT, BenchmarkError

SCALES = {"14": SCALE, "100": 100.0}
HEADROOM = 1.1  # of the memory that a loss is expected to take: other programs grow too


@dataclass(frozen=True)
class Group:
    """Losses that take turns at one size. `rounds` 0: the pass that measures memory is the only one, and timed."""

    loss: str
    n: int
    names: tuple[str, ...]
    rounds: int
    world_size: int = 1
    scales: tuple[str, ...] = ("14", "100")


@dataclass(frozen=True)
class Bench:
    """What all groups share. `missing` says why the peers' packages are not there; empty where they are."""

    device: str
    dim: int
    threads: int
    peers: Path
    scratch: Path
    timeout_seconds: float
    missing: str = ""

    def variables(self, world_size: int = 1) -> dict[str, str]:
        """Return the environment of a process: its threads, and our packages before the peers'.

        Threads sleep while they wait: where another program holds a core they would spin, and the processor time would
        count that, up to three times the work.
        """
        threads = {"OMP_NUM_THREADS": str(self.threads if world_size == 1 else 1), "OMP_WAIT_POLICY": "passive"}
        paths = (str(ROOT), str(Path(__file__).parent), str(self.peers))
        compiled = {"TORCHINDUCTOR_CACHE_DIR": str(self.peers.parent / "compiled")}
        return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), **compiled}


class GaveUpError(Exception):
    """A loss gave up; the message says why."""


class Turns:
    """The processes of one loss, one a rank: told what to do, and heard, all at the same time."""

    def __init__(self, row: Row, bench: Bench) -> None:
        self.bench = bench
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the processes)
        job = {"loss": row.loss, "n": row.n, "dim": bench.dim, "device": bench.device, "name": row.name}
        job |= {"world_size": row.world_size, "rendezvous": str(bench.scratch / uuid.uuid4().hex)}
        script = str(Path(__file__).with_name("loss_worker.py"))
        self.processes = [
            subprocess.Popen(
                [sys.executable, script, json.dumps(job | {"rank": rank})], env=bench.variables(row.world_size),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
            )
            for rank in range(row.world_size)
        ]  # fmt: skip

    def ask(self, command: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return every rank's answer to a command."""
        for process in self.processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # its last answer says why, or its status
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()
        return self.hear()

    def hear(self) -> list[dict[str, Any]]:
        """Return every rank's next answer.

        Raises:
            GaveUpError: a rank failed, ended without an answer, or took too long.
        """
        with self._limit():
            answers = [_answer(process) for process in self.processes]
        for answer in answers:
            if "failed" in answer:
                raise GaveUpError(answer["failed"])
        return answers

    @contextmanager
    def _limit(self) -> Iterator[None]:
        timer = threading.Timer(self.bench.timeout_seconds, self.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def kill(self) -> None:
        """End the processes; who waits for an answer hears that there is none."""
        for process in self.processes:
            process.kill()

    def close(self) -> None:
        """End the processes and give back what they held."""
        self.kill()
        for process in self.processes:
            process.communicate()
        self.said.close()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    return {"failed": f"ended with status {process.wait()}: killed for memory or by --timeout, or a crash"}


def measure(group: Group, bench: Bench) -> list[Row]:
    """Return a row for every loss of the group."""
    rows = [Row(group.loss, name, group.n, group.world_size) for name in group.names]
    with ExitStack() as stack:
        exact = stack.enter_context(contextlib.closing(Exact(group, bench)))
        turns = {}
        for row in rows:
            row.reason = obstacle(row, bench)
            if not row.reason:
                turns[row.name] = stack.enter_context(contextlib.closing(Turns(row, bench)))
        for row in rows:  # all start at once, and nothing is timed before the last is ready
            _tell(row, turns, bench, None)
        exact.wait()
        _take_turns(rows, group, turns, bench, exact)
    return rows


def _take_turns(rows: list[Row], group: Group, turns: "dict[str, Turns]", bench: Bench, exact: "Exact") -> None:
    first = next(iter(group.scales), "")
    for row in rows:
        answers = _tell(row, turns, bench, {"do": "peak", "reference": exact.files.get(first, "")})
        note(row, answers, first, timed=group.rounds == 0)
    for number in range(group.rounds):
        for row in rows[:: 1 if number % 2 == 0 else -1]:
            note(row, _tell(row, turns, bench, {"do": "time"}))
    for row in rows:
        if group.world_size > 1:
            note(row, _tell(row, turns, bench, {"do": "sent"}))
        for scale in group.scales[1:]:
            command = {"do": "error", "reference": exact.files[scale], "scale": SCALES[scale]}
            note(row, _tell(row, turns, bench, command), scale)


def _tell(
    row: Row, turns: dict[str, Turns], bench: Bench, command: Mapping[str, Any] | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a loss's answers to a command (none: that it is ready); a loss that cannot go on leaves its turns."""
    if row.name not in turns:
        return []
    try:
        if command is None:
            return turns[row.name].hear()
        if reason := obstacle(row, bench):
            raise GaveUpError(reason)
        return turns[row.name].ask(command)
    except GaveUpError as error:
        row.reason = str(error)
        turns.pop(row.name).close()
        return []


def note(row: Row, answers: list[dict[str, Any]], scale: str = "", timed: bool = True) -> None:
    """Put the ranks' answers into a row: the slowest rank's time, all ranks' processor time, the largest memory."""
    if not answers:
        return
    if timed and "seconds" in answers[0]:
        row.seconds.append(max(answer["seconds"] for answer in answers))
        row.cpu_seconds.append(sum(answer["cpu_seconds"] for answer in answers))
    if "mib" in answers[0]:
        row.mib = max(answer["mib"] for answer in answers)
    if "sent_mib" in answers[0]:
        row.sent_mib = max(answer["sent_mib"] for answer in answers)
    if "norm" in answers[0]:
        row.error[scale] = math.sqrt(sum(a["difference"] for a in answers) / sum(a["norm"] for a in answers))
        row.scale_error[scale] = max(answer["scale_error"] for answer in answers)


def obstacle(row: Row, bench: Bench) -> str:
    """Return why a loss cannot be measured here and now, or nothing."""
    implementation = IMPLEMENTATIONS[row.loss][row.name]
    if implementation.needs_gpu and bench.device == "cpu":
        return f"{implementation.package}: needs a GPU"
    if implementation.package is not None and bench.missing:
        return f"{implementation.package} is not installed: {bench.missing[:100]}"
    needed = row.world_size * peak_bytes(implementation, row.n, bench.dim, row.world_size) / 2**30
    free = psutil.virtual_memory().available / 2**30
    if bench.device == "cpu" and HEADROOM * needed > free:
        return f"skipped: takes about {needed:.1f} GiB, of which {HEADROOM} times should be free; {free:.1f} are"
    return ""


class Exact:
    """The exact gradients of a group, a file for every scale; a process computes them while the losses start."""

    def __init__(self, group: Group, bench: Bench) -> None:
        folder = bench.scratch / f"{group.loss}-{group.n}"
        folder.mkdir(exist_ok=True)
        self.files = {scale: str(folder / f"{scale}.pt") for scale in group.scales}
        outputs = {file: SCALES[scale] for scale, file in self.files.items() if not Path(file).is_file()}
        job = {"loss": group.loss, "n": group.n, "dim": bench.dim, "device": bench.device, "outputs": outputs}
        command = [sys.executable, str(Path(__file__).with_name("loss_reference.py")), json.dumps(job)]
        self.process = (
            subprocess.Popen(command, env=bench.variables(), stderr=subprocess.PIPE, text=True) if outputs else None
        )

    def wait(self) -> None:
        """Return when the files are there.

        Raises:
            BenchmarkError: the process failed.
        """
        if self.process is not None:
            _, said = self.process.communicate()
            if self.process.returncode:
                raise BenchmarkError(f"the exact gradients failed:\n{said[-1000:]}")

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
