"""The scripts that start a run on several machines: what they start, pass on, and start again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import free_port
from tests.toys import overrides, records

ROOT = Path(__file__).parents[1]
SLURM, MULTI_NODE = (ROOT / "configs" / "launch" / name for name in ("slurm.sbatch", "multi_node.sh"))
SCONTROL = """#!/bin/sh
if [ "$1 $2" = "show hostnames" ]; then echo localhost; else echo "$@" >> "$FAKES/requeued"; fi
"""
# Starts the tasks, each as a child of its own. As srun does when told so, it kills the others when one fails, and ends
# with the highest status.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys, time
assert "--kill-on-bad-exit=1" in sys.argv
command = sys.argv[sys.argv.index("bash"):]
tasks = [subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}})
         for n in range(int(os.environ["SLURM_NTASKS"]))]
with open(os.environ["FAKES"] + "/tasks", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
while None in (codes := [task.poll() for task in tasks]):
    if any(codes):
        for task in tasks:
            task.kill()
    time.sleep(0.01)
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
LAUNCHER = (
    f"#!{sys.executable}\n"
    """
import pathlib, signal, sys, time
run = pathlib.Path("{run}")
def end(*_):
    (run / "preempted.json").write_text(str(len(list(run.glob("up*")))))
    sys.exit(1)
signal.signal(signal.{name}, end)
(run / f"up{{time.time()}}").touch()
time.sleep(60)
"""
)
MARK = """echo '{"step": '$1'}' > "$RUN/preempted.json";"""


@dataclass
class Fakes:
    """Programs of one's own in front of those of the system, and a run directory."""

    folder: Path
    run: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def put(self, name: str, content: str) -> None:
        path = self.folder / name
        path.write_text(content)
        path.chmod(0o755)

    def trains(self, script: str) -> None:
        """Let `python` be a shell script that gets all arguments, and `$RUN`."""
        self.put("python", f'#!/bin/bash\nRUN="{self.run}"\necho "$@" >> "$FAKES/python.said"\n{script}\n')

    def start(self, script: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        known = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "FAKES": str(self.folder), **environment}
        process = subprocess.Popen(
            [script, str(self.run), *arguments],
            env=known,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def submit(self, *arguments: str, tasks: int = 2) -> "subprocess.Popen[str]":
        """Start the SLURM script as slurmd does."""
        job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1"}
        return self.start(SLURM, *arguments, **job, SLURM_NTASKS=str(tasks), SLURM_NTASKS_PER_NODE=str(tasks))

    def node(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        known = {"NODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return self.start(MULTI_NODE, *arguments, **known, **environment)

    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text().splitlines() if path.exists() else []

    def launches(self) -> int:
        path = self.folder / "python.said"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def end(self) -> None:
        for process in self.started:
            for one in _everyone(process):
                one.kill()
            process.communicate(timeout=10)


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Fakes]:
    made = Fakes(tmp_path / "fakes", tmp_path / "run")
    made.folder.mkdir()
    made.run.mkdir()
    made.put("scontrol", SCONTROL)
    made.put("srun", SRUN)
    made.put("sleep", "#!/bin/sh\nexit 0\n")
    yield made
    made.end()


def _everyone(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def ended(process: "subprocess.Popen[str]", seconds: float = 20) -> tuple[int, str]:
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


def wait_for(claim: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize("script", [SLURM, MULTI_NODE], ids=lambda p: p.name)
def test_the_scripts_are_bash_and_may_be_run(script: Path):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    assert os.access(script, os.X_OK)


def test_sbatch_reads_all_its_options():
    """It stops at the first line that is neither empty nor a comment."""
    lines = SLURM.read_text().splitlines()
    head = lines[: next(n for n, line in enumerate(lines) if line and not line.startswith("#"))]
    assert sum(line.startswith("#SBATCH ") for line in head) == sum(line.startswith("#SBATCH ") for line in lines) > 0
    options = [line.split()[1] for line in head if line.startswith("#SBATCH ")]
    assert {"--signal=USR1@300", "--requeue", "--open-mode=append"} <= set(options)


def test_every_task_is_a_rank_of_one_run(fakes: Fakes):
    fakes.trains('echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"')
    status, said = ended(fakes.submit("my.yaml", "train.seed=1"))
    assert status == 0
    assert sorted(said.split("\n")[:2]) == ["0 0 2 2 localhost 14711", "1 1 2 2 localhost 14711"]
    arguments = (fakes.folder / "python.said").read_text().splitlines()[0]
    assert arguments == f"pretrain.py my.yaml train.seed=1 run.directory={fakes.run} train.world_size=2"


@pytest.mark.parametrize("before", ["", '{"step": 3}'])
def test_a_run_that_was_asked_to_end_is_queued_again_once(fakes: Fakes, before: str):
    if before:
        (fakes.run / "preempted.json").write_text(before)
    fakes.trains(MARK.replace("$1", "7") + " exit 138")
    status, said = ended(fakes.submit())
    assert (status >= 137, fakes.requeued()) == (True, ["requeue 4711"])
    assert '{"step": 7}' in said


@pytest.mark.parametrize(("script", "statuses"), [("exit 0", [0]), ("exit 2", [2, 137]), ("kill -9 $$", [137])])
@pytest.mark.parametrize("before", ["", '{"step": 3}'])
def test_a_run_that_ends_by_itself_is_not_queued_again(fakes: Fakes, script: str, statuses: list[int], before: str):
    """Whatever an earlier job has left, for a run that fails before it begins would be queued for ever."""
    if before:
        (fakes.run / "preempted.json").write_text(before)
    fakes.trains(script)
    assert ended(fakes.submit())[0] in statuses
    assert fakes.requeued() == []


@pytest.mark.parametrize("script", [SLURM, MULTI_NODE], ids=lambda p: p.name)
def test_without_a_run_directory_the_usage_is_shown(script: Path):
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode != 0
    assert "RUN [FILE.yaml …] [key=value …]" in done.stderr


def test_without_its_number_a_machine_does_not_start(fakes: Fakes):
    status, said = ended(fakes.start(MULTI_NODE, NODES="2", MASTER_ADDR="127.0.0.1"))
    assert status != 0
    assert "NODE_RANK: the number of this machine" in said


def test_a_machine_starts_its_part_of_the_run(fakes: Fakes):
    fakes.trains("exit 0")
    assert ended(fakes.node("my.yaml", PROCESSES="2"))[0] == 0
    said = (fakes.folder / "python.said").read_text()
    assert said.startswith("-m torch.distributed.run --nnodes=1 --node_rank=0 --master_addr=127.0.0.1 ")
    assert said.endswith(f"pretrain.py my.yaml run.directory={fakes.run}\n")
    assert "--nproc_per_node=2" in said


def test_a_machine_starts_again_when_another_one_was_asked_to_end(fakes: Fakes):
    fakes.trains('n=$(wc -l < "$FAKES/python.said"); [ $n = 3 ] && exit 0; ' + MARK.replace("$1", "$n") + " exit 1")
    status, said = ended(fakes.node())
    assert (status, fakes.launches()) == (0, 3)
    assert said.count("starting again") == 2


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_a_machine_that_is_asked_to_end_passes_it_on_and_does_not_start_again(fakes: Fakes, name: str):
    passed = {"HUP": "TERM"}.get(name, name)
    # Not in bash: what it starts in the background ignores SIGINT, which Python undoes and bash does not.
    fakes.put("python", LAUNCHER.format(name=f"SIG{passed}", run=fakes.run))
    process = fakes.node()
    wait_for(lambda: list(fakes.run.glob("up*")))
    process.send_signal(signal.Signals[f"SIG{name}"])
    status, said = ended(process)
    assert status != 0, said
    assert (fakes.run / "preempted.json").read_text() == "1"
    assert len(list(fakes.run.glob("up*"))) == 1


@pytest.mark.parametrize("before", ["", '{"step": 3}'])
def test_a_machine_whose_run_fails_ends_with_its_status(fakes: Fakes, before: str):
    if before:
        (fakes.run / "preempted.json").write_text(before)
    fakes.trains("exit 3")
    assert ended(fakes.node())[0] == 3
    assert fakes.launches() == 1


def settings(shards: Path, fakes: Fakes) -> list[str]:
    (fakes.folder / "empty.yaml").write_text("{}\n")
    own = overrides(shards, fakes.run, "train.total_samples=1200", "data.workers=1")
    return [str(fakes.folder / "empty.yaml"), *own]


def until_step(fakes: Fakes, step: int, process: "subprocess.Popen[str]") -> None:
    metrics = fakes.run / "metrics.jsonl"
    wait_for(lambda: process.poll() is not None or (metrics.exists() and len(records(fakes.run)) >= step), 120)
    assert process.poll() is None, process.communicate()[0]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["tasks", "everyone"])
def test_a_job_whose_time_is_over_saves_is_queued_again_and_goes_on(fakes: Fakes, shards: Path, whom: str):
    """SLURM signals the tasks of a step alone or, with SignalChildrenProcesses=yes, all that they have started."""
    fakes.put("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    environment = settings(shards, fakes)
    fakes.run.rmdir()
    job = fakes.submit(*environment)
    until_step(fakes, 30, job)
    tasks = [psutil.Process(int(pid)) for pid in (fakes.folder / "tasks").read_text().split()]
    children = [child for task in tasks for child in task.children(recursive=True)]
    assert len(tasks) == 2
    assert children
    for one in tasks if whom == "tasks" else [*tasks, *children]:
        one.send_signal(signal.SIGUSR1)
    status, said = ended(job, 60)
    marker = json.loads((fakes.run / "preempted.json").read_text())
    assert status >= 137, said
    assert (marker["signal"], fakes.requeued()) == ("SIGUSR1", ["requeue 4711"])
    assert not [one for one in [*tasks, *children] if one.is_running()]

    status, said = ended(fakes.submit(*environment), 120)
    assert status == 0, said
    assert f"goes on at step {marker['step']} " in said
    assert fakes.requeued() == ["requeue 4711"]
    assert (fakes.run / "finished.json").exists()
    assert [row["step"] for row in records(fakes.run)] == list(range(1, 151))


@pytest.mark.slow
def test_a_job_that_is_told_nonsense_is_not_queued_again(fakes: Fakes, shards: Path):
    fakes.put("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    status, said = ended(fakes.submit(*settings(shards, fakes), "train.sede=1"), 120)
    assert (status in (2, 137), fakes.requeued()) == (True, []), said
    assert "train.sede" in said


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["script", "launcher", "everyone"])
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_machine_that_is_asked_to_end_saves_first(fakes: Fakes, shards: Path, whom: str, name: str):
    """Systemd signals everyone. A launcher that does not know SIGUSR1 would die of it, and its ranks with it."""
    fakes.put("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    arguments = settings(shards, fakes)
    fakes.run.rmdir()
    node = fakes.node(*arguments, PROCESSES="2", CUDA_VISIBLE_DEVICES="")
    until_step(fakes, 30, node)
    everyone = _everyone(node)
    for one in {"script": everyone[:1], "launcher": everyone[1:2], "everyone": everyone}[whom]:
        one.send_signal(signal.Signals[name])
    if whom == "launcher":  # the script takes it for another machine's affair, and starts again
        wait_for((fakes.run / "finished.json").exists, 120)
        assert ended(node, 60)[0] == 0
        assert [row["step"] for row in records(fakes.run)] == list(range(1, 151))
        return
    status, said = ended(node, 60)
    assert status != 0
    # A launcher that gets a second signal while it passes the first one on goes over to SIGTERM.
    assert json.loads((fakes.run / "preempted.json").read_text())["signal"] in (name, "SIGTERM"), said
    assert not [one for one in everyone if one.is_running()]
