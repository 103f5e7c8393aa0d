import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from contrastive.tracking import Tracker


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_every_record_is_on_disk_as_one_json_line_at_once(tmp_path: Path):
    tracker = Tracker(tmp_path, tensorboard=False)
    values = {"loss": float("nan"), "nested": {"a": float("inf")}, "list": [float("-inf"), 1], "name": "x"}
    tracker.record("train", 3, values)
    plain = {"loss": None, "nested": {"a": None}, "list": [None, 1], "name": "x"}
    assert rows(tmp_path) == [{"kind": "train", "step": 3, **plain}]
    tracker.close()


def test_a_second_tracker_appends(tmp_path: Path):
    for step in (1, 2):
        tracker = Tracker(tmp_path, tensorboard=False)
        tracker.record("train", step, {})
        tracker.close()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_tensorboard_gets_the_numbers(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path, tensorboard=True)
    tracker.record("eval", 7, {"dataset": "digits", "metrics": {"top1": 0.5}}, prefix="eval/digits")
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = events.Scalars("eval/digits/metrics/top1")
    assert (event.step, event.value) == (7, 0.5)


def test_a_resumed_run_has_one_curve_of_each_step_once(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = Tracker(tmp_path, tensorboard=True)
    for step in range(1, 8):
        killed.record("train", step, {"loss": 100.0 + step})
    # No close: the process is gone.
    resumed = Tracker(tmp_path, tensorboard=True, resume_step=4)
    resumed.record("resume", 4, {"reason": "preempted"})
    for step in range(5, 11):
        resumed.record("train", step, {"loss": float(step)})
    resumed.close()
    expected = [(1, 101.0), (2, 102.0), (3, 103.0), (4, 104.0), *((step, float(step)) for step in range(5, 11))]
    assert [(row["step"], row["loss"]) for row in rows(tmp_path) if row["kind"] == "train"] == expected
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == expected
    killed.close()


def test_what_has_been_recorded_for_a_step_is_known_after_a_resume(tmp_path: Path):
    first = Tracker(tmp_path, tensorboard=False)
    for dataset in ("digits", "faces"):
        first.record("eval", 4, {"dataset": dataset})
    first.record("eval", 8, {"dataset": "digits"})
    first.close()
    resumed = Tracker(tmp_path, tensorboard=False, resume_step=4)
    assert [row["dataset"] for row in resumed.recorded("eval", 4)] == ["digits", "faces"]
    assert resumed.recorded("eval", 8) == []
    assert resumed.recorded("train", 4) == []
    resumed.close()


def test_a_run_directory_that_vanishes_is_one_warning_a_place(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pytest.importorskip("tensorboard", reason="an extra")
    directory = tmp_path / "run"
    directory.mkdir()
    tracker = Tracker(directory, tensorboard=True)
    tracker.record("train", 1, {"loss": 1.0})
    shutil.rmtree(directory)
    with caplog.at_level(logging.WARNING, "contrastive"):
        for step in range(2, 10):
            tracker.record("train", step, {"loss": 1.0})
        assert tracker.recorded("train", 1) == []
        tracker.close()
    assert [message.split(":")[0] for message in caplog.messages] == ["metrics.jsonl", "TensorBoard"]
    assert not directory.exists()


def test_a_directory_that_takes_nothing_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "metrics.jsonl").mkdir()
    tracker = Tracker(tmp_path, tensorboard=False)
    tracker.record("train", 1, {})
    tracker.close()
    assert len(caplog.messages) == 1
