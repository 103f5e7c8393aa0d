"""Figures, verdicts and machines of the simulation of two machines; `benchmarks/two_nodes.py` is the simulation."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import two_nodes
from two_nodes import Row
from two_nodes_machines import Cluster, Machine, SimulationError

ROWS = [
    Row("nothing", "400 steps", True, {"whole": 12.345}),
    Row("killed", "[/path] Read error", False, {"killed": 2.0}),
]


def machine(folder: Path, script: str) -> Machine:
    return Machine(["bash", "-c", script], dict(os.environ), folder, folder / "log")


def test_the_last_line_says_how_many_events_went_as_they_must():
    assert two_nodes.figures(ROWS) == {"events": 2, "held": 1, "whole_seconds": 12.35, "killed_seconds": 2.0}


def test_the_table_shows_what_was_printed_as_it_was():
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(two_nodes.table(ROWS))
    assert "[/path] Read error" in console.export_text()


def test_the_record_is_json_and_names_the_machine():
    record = json.loads(json.dumps(two_nodes.record(ROWS)))
    assert record["rows"][1]["holds"] is False
    assert record["machine"]["cores"]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("step 3\n[rank 0] error: rank 1 on b: gone\nTraceback", "[rank 0] error: rank 1 on b: gone"),
        ("rank 0: nothing for 10 s; stacks follow\nrank 0: b: no sign of life", "rank 0: b: no sign of life"),
        ("step 3", "no word"),
    ],
)  # fmt: skip
def test_what_a_machine_says_at_its_end_is_found(said: str, line: str):
    assert two_nodes.news(said) == line


def test_a_run_that_has_not_come_to_its_end_is_no_result(tmp_path: Path):
    (tmp_path / "checkpoints" / "step-00000025").mkdir(parents=True)
    with pytest.raises(SimulationError, match="ends at step-00000025"):
        two_nodes.digest(str(tmp_path))


def test_all_processes_of_a_machine_are_seen_and_killed(tmp_path: Path):
    one = machine(tmp_path, "setsid sleep 60 & sleep 60")
    one.until(lambda: len(one.look()) == 3, 10, "children")
    one.send(signal.SIGKILL)
    assert one.wait(5) == -signal.SIGKILL
    assert one.left() == 0


def test_what_outlives_its_machine_is_counted(tmp_path: Path):
    one = machine(tmp_path, "setsid sleep 60 & sleep 0.3")
    one.until(lambda: len(one.look()) == 3, 10, "children")
    assert one.wait(5) == 0
    assert one.left(0.2) == 1
    one.send(signal.SIGKILL)


def test_a_machine_that_does_not_end_is_an_error_with_what_it_said(tmp_path: Path):
    one = machine(tmp_path, "echo hello; sleep 60")
    with pytest.raises(SimulationError, match="no the end in 0 s\nhello"):
        one.wait(0.5)
    one.send(signal.SIGKILL)
    one.process.wait()


def test_machines_have_addresses_of_their_own_where_the_system_allows_it(tmp_path: Path):
    cluster = Cluster(tmp_path, ())
    names = [cluster.host(0), cluster.host(1)]
    assert names == (["127.0.0.1", "127.0.0.2"] if cluster.has_hosts else [socket.gethostname()] * 2)
    assert sorted(path.suffix for path in (tmp_path / "shards").iterdir()) == [".tar"] * 4


@pytest.mark.slow
def test_a_lost_machine_is_named_and_both_end_as_if_nothing_had_been(tmp_path: Path):
    command = [sys.executable, two_nodes.__file__, "--quick", "--json", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("events=3 held=3 ")
