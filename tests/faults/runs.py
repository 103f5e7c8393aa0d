"""Real training processes for the fault tests: started, watched, hit by real signals, and never left behind.

Ranks are forked from the test's own process, which has paid for the imports, and get the environment of a launcher.
They share a process group, as what a terminal starts; the tests of launchers start those themselves.
"""

import atexit
import hashlib
import json
import logging
import multiprocessing.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import contrastive.runs.pretrain  # noqa: F401  (now, and not once in every rank)
from contrastive.processes import end_with_parent
from tests import toys
from tests.faults import faulty

ROOT = Path(__file__).parents[2]
FILES = ("model", "ema", "training")
# Randomness in a layer, an average, and a checkpoint at every fifth of the 40 steps.
SETTINGS = (
    *("train.total_samples=320", "train.save_every_steps=5", "train.ema_decay=0.99", "optim.learning_rate=0.003"),
    *("model.model_cfg.vision_cfg.patch_dropout=0.25", "model.model_cfg.text_cfg={width: 8, heads: 1}"),
)
LAST = 40
LOOK_SECONDS = 0.3


class Job:
    """Processes that train together. Their `statuses` are a shell's: 128 + signal for a process that one ended."""

    def __init__(self, run: "Run", pids: Sequence[int], launcher: "subprocess.Popen[bytes] | None" = None) -> None:
        self.run, self.pids, self.launcher, self.began = run, list(pids), launcher, time.monotonic()
        self.statuses: dict[int, int] = {}
        # psutil knows a process by its start as well: a number may belong to another one later.
        self.seen: dict[int, psutil.Process] = {pid: psutil.Process(pid) for pid in pids}
        self._looked = 0.0

    def poll(self) -> bool:
        """Return whether all have ended, and now and then take note of who there is."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self.look()
        if self.launcher is not None:
            return self.launcher.poll() is not None
        for rank, pid in enumerate(self.pids):
            if rank not in self.statuses and (found := os.waitpid(pid, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(found[1])
                self.statuses[rank] = code if code >= 0 else 128 - code
        return len(self.statuses) == len(self.pids)

    def look(self) -> None:
        """Take note of all processes of this job; it costs 10 ms."""
        self._looked = time.monotonic()
        roots = [self.launcher.pid] if self.launcher else [p for r, p in enumerate(self.pids) if r not in self.statuses]
        for pid in roots:
            with suppress(psutil.NoSuchProcess):
                self.seen |= {one.pid: one for one in psutil.Process(pid).children(recursive=True)}

    def wait(self, seconds: float = 60) -> list[int]:
        """Wait for all; return their statuses, or that of the launcher."""
        self.until(self.poll, seconds)
        if self.launcher is not None:
            return [self.launcher.returncode if self.launcher.returncode >= 0 else 128 - self.launcher.returncode]
        return [self.statuses[rank] for rank in range(len(self.pids))]

    def wait_for_one(self, seconds: float = 60) -> int:
        """Wait for the first that ends and kill the others, as launchers do; return its status."""
        self.until(lambda: self.poll() or bool(self.statuses), seconds)
        status = next(iter(self.statuses.values()))
        self.kill()
        return status

    def until(self, holds: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"nothing after {seconds} s:\n{self.run.log()}"
            time.sleep(0.01)

    def until_step(self, step: int, seconds: float = 60) -> None:
        """Wait until a step is in the metrics, or all have ended."""
        self.until(lambda: self.run.step() >= step or self.poll(), seconds)

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to some ranks, to all of them and what they started without any."""
        if ranks:
            for rank in ranks:
                os.kill(self.pids[rank], number)
        else:
            os.killpg(self.pids[0], number)

    def workers(self, rank: int) -> list[int]:
        """Return the processes that a rank has started."""
        return [one.pid for one in psutil.Process(self.pids[rank]).children()]

    def kill(self) -> None:
        """SIGKILL for every process at once, the launcher first."""
        self.look()
        is_over = self.poll()
        with suppress(ProcessLookupError):
            if not is_over:
                os.killpg(self.launcher.pid if self.launcher else self.pids[0], signal.SIGKILL)
        for process in self.seen.values():
            if process.pid not in self._reaped():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.until(self.poll, 10)

    def left(self, seconds: float = 3.0) -> list[int]:
        """Return which of all processes ever seen are still alive after so long."""
        deadline = time.monotonic() + seconds
        while (alive := [one.pid for one in self.seen.values() if _is_alive(one)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return alive

    def _reaped(self) -> set[int]:
        return {self.pids[rank] for rank in self.statuses}


class Run:
    """A run in a folder of its own, launched as often as one likes."""

    def __init__(self, folder: Path, shards: Path, world_size: int = 2, settings: Sequence[str] = ()) -> None:
        self.folder, self.shards, self.world_size, self.settings = folder, shards, world_size, tuple(settings)
        self.directory = folder / "run"
        self.jobs: list[Job] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "empty.yaml").write_text("{}\n")

    def arguments(self, *more: str, world_size: int | None = None) -> list[str]:
        size = self.world_size if world_size is None else world_size
        own = toys.overrides(self.shards, self.directory, *SETTINGS, f"train.world_size={size}")
        return [str(self.folder / "empty.yaml"), *own, *self.settings, *more]

    def start(self, *more: str, fault: str = "", world_size: int | None = None, port: int | None = None) -> Job:
        """Fork the ranks of a launch."""
        size = self.world_size if world_size is None else world_size
        environment = {"FAULT": fault, "FAULT_IDS": str(self.folder / "ids.jsonl")}
        environment |= {"CONTRASTIVE_CACHE": str(self.shards.parent / "cache"), "ACCELERATE_USE_CPU": "true"}
        if size > 1:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
            environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), **address}
        pids: list[int] = []
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}
                _be_rank(pids[0] if pids else 0, {**environment, **ranked}, self.folder / "log",
                         self.arguments(*more, world_size=size))  # fmt: skip
            pids.append(pid)
            os.setpgid(pid, pids[0])  # here as well: whoever comes first
        job = Job(self, pids)
        self.jobs.append(job)
        return job

    def launch(self, *more: str, fault: str = "", command: Sequence[str] = (), world_size: int | None = None) -> Job:
        """Start a real launcher, torchrun unless told otherwise, in a session of its own."""
        size = self.world_size if world_size is None else world_size
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(size)]
        torchrun += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
        environment = {**os.environ, "FAULT": fault, "FAULT_PIDS": str(self.folder), "ACCELERATE_USE_CPU": "true"}
        environment |= {"FAULT_IDS": str(self.folder / "ids.jsonl")}
        for old in self.folder.glob("pid.*"):
            old.unlink()
        script = [str(Path(faulty.__file__)), *self.arguments(*more, world_size=size)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*(command or torchrun), *script],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        job = Job(self, [], process)
        self.jobs.append(job)
        return job

    def find_ranks(self, job: Job, seconds: float = 90) -> None:
        """Wait until the ranks of a launcher have said who they are."""
        names = [self.folder / f"pid.{rank}" for rank in range(self.world_size)]
        job.until(lambda: all(name.is_file() and name.read_text() for name in names) or job.poll(), seconds)
        job.pids = [int(name.read_text()) for name in names]
        job.seen |= {pid: psutil.Process(pid) for pid in job.pids}

    def finish(self, *more: str, **options: Any) -> None:
        """Launch it and expect that it comes to its end, on as many ranks as were asked for."""
        job = self.start(*more, **options)
        statuses = job.wait()
        assert set(statuses) == {0}, f"{statuses}\n{self.log()}"
        size = options.get("world_size") or self.world_size
        assert self.facts()["world_size"] == len(statuses) == size
        assert not job.left(), self.log()
        ends = re.findall(r"ends with weights (\w+)", self.log())[-size:]
        assert len(ends) == size
        assert len(set(ends)) == 1, "all ranks have the same weights"

    def facts(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "environment.json").read_text()))

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def records(self, kind: str = "train") -> list[dict[str, Any]]:
        return toys.records(self.directory, kind)

    def step(self) -> int:
        """Return the last step that is in the metrics; 0 without any."""
        try:
            lines = (self.directory / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        for line in reversed(lines):
            if '"train"' in line and line.endswith("}"):
                return int(json.loads(line)["step"])
        return 0

    def saved(self) -> list[int]:
        """Return the steps of the checkpoints that are there."""
        folders = (path for path in (self.directory / "checkpoints").glob("step-0*") if path.is_dir())
        return sorted(int(path.name[5:]) for path in folders)

    def checkpoint(self, step: int) -> Path:
        return self.directory / "checkpoints" / f"step-{step:08d}"

    def weights(self, step: int = LAST, file: str = "model") -> dict[str, Any]:
        return dict(load_file(self.checkpoint(step) / f"{file}.safetensors"))

    def digest(self, step: int = LAST) -> dict[str, str]:
        """Return SHA-256 over all tensors of weights, average, optimizer and losses."""
        found = {}
        for file in FILES:
            content = hashlib.sha256()
            for name, value in sorted(self.weights(step, file).items()):
                content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
            found[file] = content.hexdigest()
        return found

    def ids(self) -> dict[int, list[int]]:
        """Return the sample numbers of every global batch in rank order, by step, as the last launch took it."""
        parts: dict[int, dict[tuple[int, int], list[int]]] = {}
        for line in (self.folder / "ids.jsonl").read_text().splitlines():
            row = json.loads(line)
            own = {key: ids for key, ids in parts.get(row["step"], {}).items() if key[0] == row["size"]}
            parts[row["step"]] = {**own, (row["size"], row["rank"]): row["ids"]}
        assert all(len(own) == size for own in parts.values() for size, _ in own)
        return {step: [number for key in sorted(own) for number in own[key]] for step, own in parts.items()}

    def end(self) -> None:
        """Leave no process behind; whoever is found was forgotten by the run."""
        for job in self.jobs:
            job.kill()
            assert not job.left(), "a process outlives its SIGKILL"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _be_rank(group: int, environment: dict[str, str], log: Path, arguments: list[str]) -> None:
    """Turn a forked process into one that was just started, and end it as the interpreter would."""
    status = 1
    try:
        parent = os.getppid()
        os.setpgid(0, group)
        end_with_parent(signal.SIGKILL, parent)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)  # what this process knew of its own, single launch
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
        logging.getLogger().handlers.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = faulty.main(arguments)
    except BaseException:  # noqa: BLE001  (as the interpreter does)
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(status)
