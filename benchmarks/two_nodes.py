"""Two machines on loopback addresses, one of which is lost: what the other one does, and how the run goes on.

    python benchmarks/two_nodes.py --quick          # one loss: about a minute on two cores
    python benchmarks/two_nodes.py --json out.json  # everything: about five minutes

A machine is `configs/launch/multi_node.sh` with one rank, and with a host name of its own (127.0.0.1 and 127.0.0.2)
where the system allows that (user namespaces), so that its sockets are on another address. A tiny model learns from
tiny tars. Each row of the table is something that happens to machine 1, or to both, and is judged; runs that go on must
end with the weights, average and optimizer state of the run that nothing happened to, bit by bit. Exit status 1:
something did not hold. Status 2: the simulation itself failed.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file
from two_nodes_machines import ROOT, Cluster, Machine, SimulationError, free_port

STEPS, BATCH, SAVED_EVERY, LOST_AT = 200, 8, 25, 90
HANG_SECONDS, TIMEOUT = 10, 180.0
GONE_GOAL, SILENT_GOAL = 10.0, 45.0  # seconds; a launcher waits up to 30 s for what does not end when told
VISION = "{image_size: 16, patch_size: 8, width: 32, layers: 1, head_width: 16, patch_dropout: 0.25}"
SETTINGS = (
    *("model.model_cfg.embed_dim=16", "model.model_cfg.text_cfg={context_length: 12, width: 32, heads: 2, layers: 1}"),
    f"model.model_cfg.vision_cfg={VISION}",
    *(f"data.global_batch_size={BATCH}", "data.workers=1", f"train.total_samples={STEPS * BATCH}"),
    *("train.precision=fp32", "train.threads=1", "train.ema_decay=0.99", f"train.save_every_steps={SAVED_EVERY}"),
    *("train.world_size=2", "tracking.log_every_steps=1", "tracking.tensorboard=false"),
)


QUICK = ("undisturbed", "killed", "again")
EVENTS = (*QUICK, "moved", "vanished", "asked", "apart")


@dataclass
class Row:
    """Something that happened, and what was seen."""

    event: str
    seen: str
    holds: bool
    figures: dict[str, float] = field(default_factory=dict)


class Simulation:
    """What happens to the machines, one event after another; each method returns the row of one."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.reference = cluster, ""

    def undisturbed(self) -> Row:
        """Train on both machines, and keep the end as what all others have to come to."""
        began = time.monotonic()
        self._finish("whole")
        self.reference = digest(self.cluster.path("whole"))
        hosts = "two addresses" if self.cluster.has_hosts else "one address (no user namespaces here)"
        return Row("nothing", f"{STEPS} steps on {hosts}", True, {"whole": time.monotonic() - began})

    def killed(self) -> Row:
        """Kill all processes of machine 1, which closes its connections."""
        first, second = self.cluster.start("lost")
        self._until_step(first, "lost", LOST_AT)
        second.send(signal.SIGKILL)
        row = self._lost(first, "machine 1 is killed", "killed", GONE_GOAL)
        shutil.copytree(self.cluster.path("lost"), self.cluster.path("moved"))
        return row

    def vanished(self) -> Row:
        """Stop all processes of machine 1, which keeps its connections open, as a machine without power does."""
        first, second = self.cluster.start("silent", f"train.hang_seconds={HANG_SECONDS}")
        self._until_step(first, "silent", LOST_AT)
        second.send(signal.SIGSTOP)
        row = self._lost(first, f"machine 1 is silent (hang_seconds={HANG_SECONDS})", "silent", SILENT_GOAL)
        second.send(signal.SIGKILL)
        second.process.wait()
        return row

    def again(self) -> Row:
        """Start the same command on both."""
        said = self._finish("lost")
        return self._same("lost", "both are started again", said)

    def moved(self) -> Row:
        """Go on from the same checkpoint with both ranks on one machine."""
        (only,) = self.cluster.start("moved", machines=1)
        self._require_end(only)
        return self._same("moved", "both ranks go on on one machine", only.said())

    def asked(self) -> Row:
        """Ask machine 1 to end; it comes back, and machine 0 has waited for it."""
        port, run = free_port(), self.cluster.path("asked")
        first, second = (self.cluster.start_one(number, run, port) for number in range(2))
        self._until_step(first, "asked", LOST_AT)
        second.process.send_signal(signal.SIGTERM)
        status = second.wait(60)
        step = json.loads((Path(run) / "preempted.json").read_text())["step"]
        back = self.cluster.start_one(1, run, port)
        self._require_end(first)
        self._require_end(back)
        row = self._same("asked", "machine 1 is asked to end, and comes back", first.said())
        row.seen = f"saved at step {step}, status {status}; machine 0 waited; {row.seen}"
        row.holds = row.holds and f"goes on at step {step} " in first.said()
        return row

    def apart(self) -> Row:
        """Go on with a run whose directory is another one on machine 1."""
        port = free_port()
        places = [self.cluster.folder / f"disk{number}" for number in range(2)]
        for place in places:
            place.mkdir()
            (place / "pretrain.py").symlink_to(ROOT / "pretrain.py")
        shutil.copytree(self.cluster.path("moved"), places[0] / "run")
        (places[0] / "run" / "finished.json").unlink()
        shutil.rmtree(newest(places[0] / "run"))
        machines = [self.cluster.start_one(n, "run", port, where=places[n]) for n in range(2)]
        statuses = [machine.wait(90) for machine in machines]
        line = next((line for line in machines[0].said().splitlines() if "does not see" in line), "no word")
        named = f"rank 1 on {self.cluster.host(1)} does not see" in line
        return Row("the run directory is not shared", f"status {statuses}: {line}", named and all(statuses))

    def _finish(self, run: str) -> str:
        machines = self.cluster.start(run)
        for machine in machines:
            self._require_end(machine)
        return machines[0].said()

    def _require_end(self, machine: Machine) -> None:
        if status := machine.wait(TIMEOUT):
            raise SimulationError(f"{machine.log.name}: status {status}\n{machine.said()[-3000:]}")

    def _until_step(self, machine: Machine, run: str, wanted: int) -> None:
        metrics = Path(self.cluster.path(run)) / "metrics.jsonl"
        machine.until(lambda: machine.process.poll() is not None or step(metrics) >= wanted, TIMEOUT, f"step {wanted}")

    def _lost(self, rest: Machine, event: str, name: str, goal: float) -> Row:
        began = time.monotonic()
        status = rest.wait(TIMEOUT)
        seconds, left = time.monotonic() - began, rest.left()
        said = news(rest.said())
        seen = f"machine 0 ends after {seconds:.1f} s, status {status}, {left} processes left: {said}"
        holds = bool(status) and seconds <= goal and not left and f"rank 1 on {self.cluster.host(1)}:" in said
        return Row(event, seen, holds, {name: seconds})

    def _same(self, run: str, event: str, said: str) -> Row:
        found = re.search(r"goes on at step (\d+)", said)
        same = digest(self.cluster.path(run)) == self.reference
        seen = f"goes on at step {found[1] if found else '?'}; the end is {'the same' if same else 'ANOTHER'}"
        return Row(event, seen, same and found is not None)


def digest(run: str) -> str:
    """Return SHA-256 over all tensors of a run's last checkpoint: weights, average, optimizer and losses."""
    content = hashlib.sha256()
    folder = newest(Path(run))
    if folder.name != f"step-{STEPS:08d}":
        raise SimulationError(f"{run}: ends at {folder.name}")
    for file in ("model", "ema", "training"):
        for name, value in sorted(load_file(folder / f"{file}.safetensors").items()):
            content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return content.hexdigest()


def newest(run: Path) -> Path:
    """Return a run's last checkpoint."""
    return max((run / "checkpoints").glob("step-*"))


def step(metrics: Path) -> int:
    """Return how many steps are in a run's metrics."""
    return metrics.read_text().count('"kind": "train"') if metrics.exists() else 0


def news(said: str) -> str:
    """Return the line that says why a machine ended."""
    # Whichever of exchange and watchdog gives up first names the lost rank, the watchdog on a line of its own.
    lines = [line for line in said.splitlines() if re.search(r"error: |Error: |no sign of life", line)]
    return lines[0] if lines else "no word"


def run(events: Sequence[str], folder: Path, console: Console) -> list[Row]:
    """Let the events happen, one after another."""
    rows = []
    with simulated(folder) as simulation:
        for event in events:
            rows.append(getattr(simulation, event)())
            console.print(f"{rows[-1].event}: {rows[-1].seen}", markup=False, highlight=False)
    return rows


@contextmanager
def simulated(folder: Path) -> Iterator[Simulation]:
    """Make two machines, and leave none of their processes behind."""
    cluster = Cluster(folder, SETTINGS)
    try:
        yield Simulation(cluster)
    finally:
        cluster.end()


def table(rows: Sequence[Row]) -> Table:
    """Return what happened, and whether it was as it must be."""
    grid = Table(title="Two machines, one of which is lost")
    for heading in ("what happens", "what is seen", "holds"):
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(row.event, escape(row.seen), "yes" if row.holds else "NO", style=None if row.holds else "red")
    return grid


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the last line's figures."""
    seconds = {f"{name}_seconds": round(value, 2) for row in rows for name, value in row.figures.items()}
    return {"events": len(rows), "held": sum(row.holds for row in rows), **seconds}


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything a reader needs to repeat or doubt the figures."""
    machine = {"platform": platform.platform(), "cores": os.cpu_count()}
    return {
        **{"date": time.strftime("%Y-%m-%d"), "machine": machine, "settings": SETTINGS},
        **{"figures": figures(rows), "rows": [asdict(row) for row in rows]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, width=120)
    with tempfile.TemporaryDirectory(prefix="two-nodes-") as folder:
        try:
            rows = run(QUICK if options.quick else EVENTS, Path(folder), console)
        except SimulationError as error:
            console.print(str(error), style="red", markup=False)
            return 2
    Console(width=120).print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(record(rows), indent=1) + "\n")
    print(" ".join(f"{name}={value:g}" for name, value in figures(rows).items()))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
