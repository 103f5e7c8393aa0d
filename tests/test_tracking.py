import json
import logging
from pathlib import Path

import pytest

from contrastive.tracking import ProgressLine, Tracker, environment

VALUES = {"loss": 1.5, "samples_per_second": 1234.5, "data_wait_share": 0.25}


def test_every_record_is_on_disk_as_one_json_line_at_once(tmp_path: Path):
    tracker = Tracker(tmp_path, tensorboard=False)
    tracker.record("train", 3, {"loss": float("nan"), "nested": {"a": float("inf")}, "name": "x"})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "train", "step": 3, "loss": None, "nested": {"a": None}, "name": "x"}
    tracker.close()


def test_a_second_tracker_appends(tmp_path: Path):
    for step in (1, 2):
        tracker = Tracker(tmp_path, tensorboard=False)
        tracker.record("train", step, {})
        tracker.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_gets_the_numbers(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path, tensorboard=True)
    tracker.record("eval", 7, {"dataset": "digits", "metrics": {"top1": 0.5}}, prefix="eval/digits")
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = events.Scalars("eval/digits/metrics/top1")
    assert (event.step, event.value) == (7, 0.5)


def test_off_a_terminal_progress_is_log_lines_from_one_process(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "contrastive"):
        for enabled in (True, False):
            with ProgressLine(100, enabled) as progress:
                progress.show(10, VALUES)
    (line,) = caplog.messages
    assert line.startswith("step 10/100  loss 1.500  1,234 samples/s  data wait 25%")
    assert line.endswith("left")


def test_the_environment_names_what_a_result_may_depend_on():
    found = environment(2, "cpu", "bf16")
    assert found["world_size"] == 2
    assert found["packages"]["torch"] is not None
    json.dumps(found)
