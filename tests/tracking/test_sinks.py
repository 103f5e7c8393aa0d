import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contrastive.tracking import sinks
from contrastive.tracking.sinks import Background, Guarded, TensorBoard


class Flaky:
    """A sink that fails when it is told to, and keeps what it is given."""

    name = "flaky"

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.calls: list[str] = []
        self.steps: list[int] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def open(self) -> None:
        self._called("open")

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        self._called("write")
        self.steps.append(row["step"])

    def close(self) -> None:
        self._called("close")

    def _called(self, what: str) -> None:
        self.gate.wait()
        self.calls.append(what)
        self.threads.add(threading.current_thread().name)
        if what in self.fails:
            raise RuntimeError("the network is down")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("what", ["open", "write", "close"])
def test_whatever_fails_is_one_warning_with_the_sinks_name(what: str, caplog: pytest.LogCaptureFixture):
    sink = Flaky()
    sink.fails = {what}
    guarded = Guarded(sink)
    guarded.open()
    for step in range(5):
        guarded.write({"step": step}, {})
    guarded.close()
    (line,) = warnings(caplog)
    assert line.startswith("flaky: records are lost (the network is down); training goes on")


def test_a_failed_sink_is_left_alone_for_a_minute_and_then_opened_again(monkeypatch: pytest.MonkeyPatch, caplog):
    now = [0.0]
    monkeypatch.setattr("contrastive.tracking.sinks.time.monotonic", lambda: now[0])
    sink = Flaky()
    guarded = Guarded(sink)
    guarded.open()
    sink.fails = {"write"}
    guarded.write({"step": 1}, {})
    assert sink.calls == ["open", "write", "close"]
    sink.fails = set()
    now[0] = 59.0
    guarded.write({"step": 2}, {})
    assert sink.steps == []
    now[0] = 61.0
    guarded.write({"step": 3}, {})
    assert sink.steps == [3]
    sink.fails = {"write"}
    guarded.write({"step": 4}, {})
    assert len(warnings(caplog)) == 1


def test_a_sink_is_not_touched_after_its_end():
    sink = Flaky()
    guarded = Guarded(sink)
    guarded.open()
    guarded.close()
    guarded.write({"step": 1}, {})
    assert sink.calls == ["open", "close"]


def test_a_slow_sink_holds_up_nobody_and_has_everything_in_the_end():
    sink = Flaky()
    sink.gate.clear()
    background = Background(Guarded(sink))
    background.open()
    started = time.monotonic()
    for step in range(100):
        background.write({"step": step}, {})
    assert time.monotonic() - started < 5
    sink.gate.set()
    background.close()
    assert sink.steps == list(range(100))
    assert sink.threads == {"tracker flaky"}  # MLflow knows a run by the thread that began it


def test_a_sink_that_hangs_loses_records_after_a_while_and_does_not_keep_the_run_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 0.2)
    sink = Flaky()
    sink.gate.clear()
    background = Background(Guarded(sink))
    background.open()
    for step in range(sinks.WAITING_RECORDS + 10):
        background.write({"step": step}, {})
    background.close()
    sink.gate.set()
    lost, end = warnings(caplog)
    assert lost == "flaky: records are lost: 1000 wait for it already"
    assert end == "flaky: had not taken all records after 0 s; the end does not wait"


def test_a_deleted_tensorboard_directory_is_one_warning_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("tensorboard", reason="an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(sinks, "AGAIN_SECONDS", 0.0)
    guarded = Guarded(TensorBoard(tmp_path / "tensorboard", None))
    guarded.open()
    guarded.write({"step": 1}, {"train/loss": 3.0})
    shutil.rmtree(tmp_path / "tensorboard")
    for step in (2, 3, 4):
        guarded.write({"step": step}, {"train/loss": 2.0})
    guarded.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [3, 4]
    (line,) = warnings(caplog)
    assert line.startswith(f"TensorBoard: records are lost ({tmp_path}/tensorboard is gone)")
