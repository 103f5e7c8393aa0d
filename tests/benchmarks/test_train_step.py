"""Arguments and figures of the throughput comparison; the comparison itself is a benchmark, not a test."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import train_step
import trainers

from contrastive.tracking import ProgressLine


def pair(model: str, ours: float, theirs: float) -> train_step.Pair:
    return train_step.Pair(model, trainers.Speed(ours, 1000 / ours), trainers.Speed(theirs, 1000 / theirs))


PAIRS = [pair("vit", 200, 100), pair("vit", 130, 100), pair("vit", 150, 100), pair("resnet", 140, 100)]


def shards(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"{number:05d}.tar").touch()
    return folder


def test_quick_changes_only_what_is_not_given():
    options = train_step.parse(["--quick", "--steps", "24"])
    assert (options.steps, options.rounds, options.model) == (24, 1, ["resnet"])


def test_without_arguments_both_models_run_three_rounds():
    options = train_step.parse([])
    assert (sorted(options.model), options.rounds) == (["resnet", "vit"], 3)


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--model", "bert"], ["--steps", "-4"], ["--batch-size", "x"]]
)
def test_wrong_arguments_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_step.parse(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_folder_without_tars_is_one_clear_error(tmp_path, capsys):
    assert train_step.main(["--data", str(tmp_path)]) == 2
    assert "holds no" in capsys.readouterr().err


def test_fewer_tars_than_workers_are_refused_before_the_peer_starts(tmp_path):
    options = train_step.parse(["--data", str(shards(tmp_path, 1)), "--workers", "2"])
    with pytest.raises(trainers.BenchmarkError, match="a tar a worker"):
        train_step.settings_of(options)


def test_settings_log_at_both_ends_of_the_measure(tmp_path):
    settings = train_step.settings_of(train_step.parse(["--data", str(shards(tmp_path, 2))]))
    assert settings.warmup_steps % settings.log_every == 0
    assert settings.steps % settings.log_every == 0


def test_the_speed_counts_what_lies_between_two_marks_after_the_warm_up():
    marks = [trainers.Mark(*mark) for mark in ((8, 1.0, 1.0), (16, 9.0, 2.0), (24, 10.0, 3.0), (40, 12.0, 5.0))]
    assert trainers.speed(marks, skipped_samples=16) == trainers.Speed(24 / 3, 1000 * 3 / 24)


def test_a_speed_of_one_mark_is_refused():
    with pytest.raises(trainers.BenchmarkError, match="more steps"):
        trainers.speed([trainers.Mark(8, 1.0, 0.0), trainers.Mark(16, 2.0, 0.0)], skipped_samples=16)


def test_the_log_lines_of_both_trainers_are_read():
    theirs = "2026-11-21,00:46:01 | INFO | Train Epoch: 0 [ 1152/3072 (38%)] Data (t): 0.001 Batch (t): 0.9, 142/s"
    ours = "step 9/24  loss 4.851  142 samples/s  data wait 1%  0:13 left"
    assert trainers.PEER_LINE.search(theirs).group(1) == "1152"
    assert trainers.OUR_LINE.search(ours).group(1) == "9"


def test_our_line_is_what_the_progress_of_training_writes(caplog):
    values = {"loss": 1.0, "samples_per_second": 10.0, "data_wait_share": 0.0}
    with caplog.at_level("INFO", logger="contrastive"):
        ProgressLine(total=24, enabled=True).show(9, values)
    assert trainers.OUR_LINE.search(caplog.messages[0]).group(1) == "9"


def test_the_last_line_holds_the_worst_model_s_median_ratio():
    figures = dict(pair.split("=") for pair in train_step.last_line(PAIRS).split())
    assert figures == {
        "ratio": "1.400", "ours_samples_per_second": "140.000", "open_clip_samples_per_second": "100.000",
        "ratio_vit": "1.500", "ratio_resnet": "1.400", "cpu_ratio_vit": "1.500", "cpu_ratio_resnet": "1.400",
    }  # fmt: skip


def test_the_table_shows_every_round_and_the_medians():
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(train_step.table(PAIRS))
    text = console.export_text()
    assert text.count("median") == 2
    assert text.count("vit") == 4


def test_the_record_is_json_and_names_settings_and_machine(tmp_path):
    settings = train_step.settings_of(train_step.parse(["--data", str(shards(tmp_path, 3))]))
    record = json.loads(json.dumps(train_step.record(PAIRS, settings)))
    assert record["settings"]["shards"] == 3
    assert record["machine"]["torch"]


def test_the_peer_s_environment_is_made_once(tmp_path, monkeypatch):
    calls = []

    def install(command, purpose):
        calls.append(command)
        Path(command[command.index("--target") + 1]).mkdir()

    monkeypatch.setattr(trainers, "_call", install)
    for _ in range(2):
        assert trainers.peer_environment(tmp_path / "peer", Console(quiet=True)) == tmp_path / "peer"
    assert len(calls) == 1
    assert "webdataset==0.2.86" in calls[0]


def test_a_trainer_that_fails_is_reported_with_its_last_lines(tmp_path):
    settings = train_step.settings_of(train_step.parse(["--data", str(shards(tmp_path, 2))]))
    with pytest.raises(trainers.BenchmarkError, match="the reason"):
        trainers._watch([sys.executable, "-c", "print('the reason'); exit(3)"], trainers.OUR_LINE, 1, {}, settings)


def test_marks_are_taken_as_lines_arrive(tmp_path):
    settings = train_step.settings_of(train_step.parse(["--data", str(shards(tmp_path, 2))]))
    work = "print('step 1/2 ', flush=True); sum(range(10**7)); print('step 2/2 ', flush=True); time.sleep(1)"
    first, last = trainers._watch([sys.executable, "-c", f"import time; {work}"], trainers.OUR_LINE, 64, {}, settings)
    assert (first.samples, last.samples) == (64, 128)
    assert last.seconds > first.seconds
    assert last.cpu_seconds > first.cpu_seconds
