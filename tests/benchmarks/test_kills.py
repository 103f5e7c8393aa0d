"""Arguments, moments, comparison and table of the kills; twenty of them are no test, and one is a slow one."""

import io
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from contrastive.config import load

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import kills
import kills_runs
from trainers import BenchmarkError

REFERENCE = kills.Reference(50.0, 10.0, {"model": "a", "ema": "b"})


@dataclass(frozen=True)
class Script(kills_runs.Course):
    """A course whose command runs a few lines of Python."""

    script: str = ""

    def command(self, run: Path) -> list[str]:
        return [sys.executable, "-c", self.script]


def script(folder: Path, lines: str, timeout: float = 30.0) -> Script:
    return Script(folder, (), 1, 60, None, timeout, lines)


def write_end(run: Path, course: kills_runs.Course, weight: float = 1.0, **facts: object) -> None:
    folder = run / "checkpoints" / f"step-{course.steps:08d}"
    folder.mkdir(parents=True)
    for name in kills_runs.TENSORS:
        values = {"0/torch": torch.ones(3), "0/numpy": torch.ones(2)} if name == "random" else {"w": torch.ones(2, 2)}
        save_file(values, folder / f"{name}.safetensors")
    save_file({"w": torch.full((2, 2), weight)}, folder / "model.safetensors")
    held = {"world_size": 1, "step": 60, "samples_seen": 480, "data": {"consumed": 480}, "guard": {}, **facts}
    (folder / "training.json").write_text(json.dumps(held))


def test_quick_is_one_run_killed_three_times_and_the_whole_is_twenty_runs_killed_once():
    assert (kills.parse(["--quick"]).kills, kills.parse(["--quick"]).each) == (2, 2)
    assert (kills.parse([]).kills, kills.parse([]).each, kills.parse([]).processes) == (20, 1, 2)


def test_wrong_arguments_end_with_status_2():
    with pytest.raises(SystemExit) as stopped:
        kills.parse(["--kills", "0"])
    assert stopped.value.code == 2


def test_what_a_launch_has_left_is_its_start_and_the_steps_that_are_not_saved():
    assert REFERENCE.left(0) == 50
    assert REFERENCE.left(0.75) == 20
    assert REFERENCE.left(1) == 10


@pytest.mark.parametrize("quick", [True, False])
def test_the_steps_of_a_course_are_those_of_its_configuration(tmp_path: Path, monkeypatch, quick: bool):
    monkeypatch.setattr(kills_runs.Path, "is_dir", lambda path: True)
    course = (kills_runs.tiny if quick else kills_runs.glyphs)(tmp_path, 2, 60.0)
    config = load([course.configuration[0]], list(course.configuration[1:]))
    assert config.train.total_samples == course.steps * config.data.global_batch_size
    assert config.eval.every_steps == course.evaluates_every
    assert config.train.ema_decay
    assert "train.world_size=2" in course.command(tmp_path / "run")


def test_without_the_glyphs_the_error_says_how_to_make_them(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kills_runs, "ROOT", tmp_path)
    with pytest.raises(BenchmarkError, match=r"data_recipes/glyphs\.py"):
        kills_runs.glyphs(tmp_path, 2, 60.0)


def test_a_kill_ends_the_launcher_and_what_it_has_started(tmp_path: Path):
    lines = "import subprocess, sys, time\n"
    lines += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    lines += "print(child.pid, flush=True); time.sleep(60)"
    with kills_runs.Launched(script(tmp_path, lines), tmp_path / "run") as launched:
        while not launched.log.read_text().endswith("\n"):
            assert not launched.ends_within(0.05)
        launched.kill()
        assert launched.ends_within(0)
    pid = int(launched.log.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_launch_that_fails_is_told_with_its_last_lines(tmp_path: Path):
    course, run = script(tmp_path, "raise SystemExit('no such shard')"), tmp_path / "run"
    said = pytest.raises(BenchmarkError, match=r"run\.log: status 1; its last lines:\nno such shard")
    with said, kills_runs.Launched(course, run) as launched:
        launched.finish()


def test_a_launch_that_takes_too_long_is_told_and_ended(tmp_path: Path):
    launched = kills_runs.Launched(script(tmp_path, "import time; time.sleep(60)", 0.1), tmp_path / "run")
    with pytest.raises(BenchmarkError, match="no end after 0 s"), launched:
        launched.finish()
    assert launched.ends_within(0)


def test_a_line_that_a_kill_has_cut_is_passed_over(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 5}\n{"kind": "train", "st')
    assert kills_runs.steps_done(tmp_path) == 5
    assert kills_runs.steps_done(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("rows", "files", "expected"),
    [
        ([], [], "starting"),
        ([("train", 40), ("resume", 40)], [], "starting"),
        ([("train", 41)], [], "training"),
        ([("train", 41)], ["checkpoints/.step-00000040.writing"], "training, saving"),
        ([("train", 50)], [], "evaluating"),
        ([("train", 50), ("eval", 50)], [], "training"),
        ([("train", 60), ("eval", 60)], ["finished.json"], "ending"),
    ],
)
def test_what_a_kill_has_hit_is_read_from_what_is_left(tmp_path: Path, rows, files, expected: str):
    course = kills_runs.Course(tmp_path, (), 2, 60, 50, 60.0)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"kind": k, "step": n}) + "\n" for k, n in rows))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert kills_runs.stage(course, tmp_path, time.time() - 60) == expected
    assert kills_runs.stage(course, tmp_path, time.time() + 60) == "starting"


def test_the_digest_tells_one_bit_of_one_weight(tmp_path: Path):
    course = script(tmp_path, "")
    for name, weight in (("a", 1.0), ("same", 1.0), ("other", 1.0 + 2**-23)):
        write_end(tmp_path / name, course, weight)
    first, same, other = (kills_runs.digest(course, tmp_path / name) for name in ("a", "same", "other"))
    assert first == same
    assert [part for part in first if first[part] != other[part]] == ["model"]


@pytest.mark.parametrize("facts", [{"data": {"consumed": 481}}, {"guard": {"skipped": 1}}])
def test_the_digest_tells_another_position_or_history(tmp_path: Path, facts):
    course = script(tmp_path, "")
    write_end(tmp_path / "a", course)
    write_end(tmp_path / "b", course, **facts)
    first, other = kills_runs.digest(course, tmp_path / "a"), kills_runs.digest(course, tmp_path / "b")
    assert [part for part in first if first[part] != other[part]] == ["position"]


def test_a_run_on_another_number_of_processes_or_without_its_last_step_is_refused(tmp_path: Path):
    course = script(tmp_path, "")
    write_end(tmp_path / "a", course, world_size=2)
    with pytest.raises(BenchmarkError, match="ran on 2 processes, not 1"):
        kills_runs.digest(course, tmp_path / "a")
    with pytest.raises(BenchmarkError, match="without a checkpoint of step 60"):
        kills_runs.digest(course, tmp_path / "b")


def test_moments_are_the_same_for_a_seed_and_a_run_that_ends_first_is_not_killed(tmp_path: Path):
    slow, quick = script(tmp_path, "import time; time.sleep(60)"), script(tmp_path, "")
    reference = kills.Reference(0.5, 0.1, {})
    found = [kills.kill_often(slow, tmp_path / "run", 1, reference, 2, random.Random(7)) for _ in range(2)]
    assert [kill.second for kill in found[0]] == [kill.second for kill in found[1]]
    assert all(0 < kill.second < 0.5 and kill.stage == "starting" for kill in found[0])
    assert kills.kill_often(quick, tmp_path / "run", 1, kills.Reference(100, 1, {}), 2, random.Random(7)) == []


@pytest.mark.parametrize(("found", "status"), [({"model": "a", "ema": "b"}, 0), ({"model": "a", "ema": "c"}, 1)])
def test_the_status_is_1_when_a_run_ends_elsewhere_and_its_directory_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: dict, status: int
):
    def kill_often(course, run, number, reference, count, moments):
        run.mkdir()
        return [kills.Kill(number, 3.0, "training", 20, 14)] * count

    monkeypatch.setattr(kills, "tiny", lambda folder, processes, timeout: script(folder, ""))
    monkeypatch.setattr(kills, "uninterrupted", lambda course: REFERENCE)
    monkeypatch.setattr(kills, "kill_often", kill_often)
    monkeypatch.setattr(kills, "digest", lambda course, run: found)
    given = ["--quick", "--kills", "4", "--each", "3", "--folder", str(tmp_path / "runs"), "--json"]
    assert kills.main([*given, str(tmp_path / "out.json")]) == status
    identical = 0 if status else 4
    expected = f"kills=4 identical={identical} runs=2 uninterrupted_seconds=50.0"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    assert len(list(tmp_path.glob("runs/*/killed-?"))) == (2 if status else 0)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["different"] == ({"1": ["ema"], "2": ["ema"]} if status else {})
    assert [kill["run"] for kill in written["kills"]] == [1, 1, 1, 2]


def test_runs_that_always_end_first_end_the_script_with_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kills, "tiny", lambda folder, processes, timeout: script(folder, ""))
    monkeypatch.setattr(kills, "uninterrupted", lambda course: REFERENCE)
    monkeypatch.setattr(kills, "kill_often", lambda course, run, *rest: run.mkdir() or [])
    monkeypatch.setattr(kills, "digest", lambda course, run: REFERENCE.digest)
    assert kills.main(["--quick", "--folder", str(tmp_path)]) == 2


def test_the_table_has_a_line_a_kill():
    found = [kills.Kill(1, 3.25, "training, saving", 20, 14), kills.Kill(2, 9.0, "starting", 0, 0)]
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(kills.table(found, {2: ["model", "ema"]}))
    text = console.export_text()
    assert "training, saving" in text
    assert text.count("identical") == 1
    assert "DIFFERENT: model, ema" in text


@pytest.mark.slow
def test_a_killed_run_ends_where_the_uninterrupted_one_does(tmp_path: Path):
    assert kills.main(["--quick", "--kills", "1", "--folder", str(tmp_path)]) == 0
