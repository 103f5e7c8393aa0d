"""How far, how fast and how long yet."""

import logging
import time

import pytest

from contrastive.recipes.packing import pace
from contrastive.recipes.packing.pace import Pace


def test_a_log_line_says_count_rate_and_time_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pace, "SAID_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "contrastive"), Pace("packing", "samples", 1000, first=400) as line:
        line._started = time.monotonic() - 10
        line(600, 1000)
    assert caplog.messages == ["packing 600/1,000 samples  20/s  0:20 left"]


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "contrastive"), Pace("packing", "samples", 10) as line:
        line(10, 10)
    assert not caplog.messages


def test_what_nobody_can_count_ahead_has_no_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pace, "SAID_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "contrastive"), Pace("listing rows", "rows") as line:
        line._started = time.monotonic() - 2
        line(3000, 0)
    assert caplog.messages == ["listing rows 3,000 rows  1,500/s"]


def test_a_listener_is_told_of_what_is_under_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pace, "LOOK_SECONDS", 0.01)
    seen: list[tuple[int, int]] = []
    with Pace("packing", "samples", 100, 0, lambda done, total: seen.append((done, total)), lambda: 7) as line:
        line(10, 100)
        deadline = time.monotonic() + 5
        while (17, 100) not in seen and time.monotonic() < deadline:
            time.sleep(0.01)
        line(100, 100)
    assert (10, 100) in seen
    assert (17, 100) in seen
    assert max(seen) == (100, 100), "never more than there are"
