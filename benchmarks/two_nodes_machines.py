"""Machines that are simulated on one: processes, a host name and an address each, and a file system they share."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "configs" / "launch" / "multi_node.sh"


class SimulationError(Exception):
    """Something that the simulation relies on did not happen; the message ends with what was printed last."""


class Machine:
    """The processes of one machine, whose output goes into a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], where: Path, log: Path) -> None:
        self.log, self.began = log, log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, cwd=where, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.everyone: dict[int, psutil.Process] = {}

    def look(self) -> list[psutil.Process]:
        """Return all its processes that are alive, and remember them."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            self.everyone |= {one.pid: one for one in (top, *top.children(recursive=True))}
        return [one for one in self.everyone.values() if _is_alive(one)]

    def send(self, number: int) -> None:
        """Send a signal to every process at once."""
        for one in self.look():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def said(self) -> str:
        """Return what this launch has printed."""
        with self.log.open("rb") as file:
            file.seek(self.began)
            return file.read().decode(errors="replace")

    def wait(self, seconds: float) -> int:
        """Return the status with which it ended."""
        self.until(lambda: self.process.poll() is not None, seconds, "the end")
        return self.process.returncode

    def until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something holds.

        Raises:
            SimulationError: it does not.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SimulationError(f"{self.log.name}: no {what} in {seconds:.0f} s\n{self.said()[-3000:]}")
            self.look()
            time.sleep(0.02)

    def left(self, seconds: float = 3.0) -> int:
        """Return how many of its processes are alive after so long."""
        deadline = time.monotonic() + seconds
        while (alive := self.look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(alive)


class Cluster:
    """Two machines, a file system that they share, and tars on it."""

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        self.folder, self.shards, self.settings = folder, folder / "shards", settings
        self.has_hosts = shutil.which("unshare") is not None and not subprocess.run(
            [*_host(1), "true"], capture_output=True, check=False
        ).returncode  # fmt: skip
        self.machines: list[Machine] = []
        write_shards(self.shards)
        (folder / "empty.yaml").write_text("{}\n")

    def start(self, run: str, *overrides: str, machines: int = 2) -> list[Machine]:
        """Start a run on both machines, or all its ranks on the first."""
        path, port = self.path(run), free_port()
        return [self.start_one(number, path, port, *overrides, machines=machines) for number in range(machines)]

    def start_one(
        self, number: int, run: str, port: int, *overrides: str, machines: int = 2, where: Path | None = None
    ) -> Machine:
        """Start one machine's part of a run, with its checkout in `where`."""
        environment = {
            **os.environ,
            **{"NODES": str(machines), "NODE_RANK": str(number), "PROCESSES": str(2 // machines)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            **{"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
            **{"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"},
            **({} if self.has_hosts else {"GLOO_SOCKET_IFNAME": "lo"}),
        }
        arguments = [str(self.folder / "empty.yaml"), *self.settings, f"data.train={self.shards}", *overrides]
        command = [*(_host(number) if self.has_hosts else ()), str(SCRIPT), run, *arguments]
        log = self.folder / f"{Path(run).name}-machine{number}.log"
        machine = Machine(command, environment, where or ROOT, log)
        self.machines.append(machine)
        return machine

    def path(self, run: str) -> str:
        """Return where a run lies that both machines share."""
        return str(self.folder / run)

    def host(self, number: int) -> str:
        """Return the host name of a machine."""
        return f"127.0.0.{number + 1}" if self.has_hosts else socket.gethostname()

    def end(self) -> None:
        """Leave nothing behind."""
        for machine in self.machines:
            machine.send(signal.SIGKILL)
            machine.process.wait()


def _host(number: int) -> list[str]:
    name = f"127.0.0.{number + 1}"
    return ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_shards(folder: Path, shards: int = 4, samples: int = 24) -> None:
    """Write tars of small images of noise with captions."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(samples):
                image = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image, "PNG")
                caption = f"picture number {number} of shard {shard}".encode()
                for extension, content in (("png", image.getvalue()), ("txt", caption)):
                    member = tarfile.TarInfo(f"{shard:02d}{number:04d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
