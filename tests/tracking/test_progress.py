import logging

import pytest

from contrastive.tracking import ProgressLine

VALUES = {"loss": 1.5, "samples_per_second": 1234.5, "data_wait_share": 0.25}


def test_off_a_terminal_progress_is_log_lines_from_one_process(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "contrastive"):
        for enabled in (True, False):
            with ProgressLine(100, enabled) as progress:
                progress.show(10, VALUES)
    (line,) = caplog.messages
    assert line.startswith("step 10/100  loss 1.500  1,234 samples/s  data wait 25%")
    assert line.endswith("left")


def test_the_share_of_the_devices_peak_is_shown_where_it_is_known(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "contrastive"), ProgressLine(100, enabled=True) as progress:
        progress.show(10, {**VALUES, "mfu": 0.412})
    assert "data wait 25%  MFU 41%" in caplog.messages[0]


def test_the_time_left_of_a_resumed_run_is_judged_by_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    now = [0.0]
    monkeypatch.setattr("contrastive.tracking.progress.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "contrastive"), ProgressLine(1000, enabled=True, first=900) as progress:
        now[0] = 20.0
        progress.show(910, VALUES)  # 2 s a step, 90 to go
    assert caplog.messages[0].endswith("3:00 left")
