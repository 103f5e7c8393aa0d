import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as accelerate_tracking
from accelerate.tracking import GeneralTracker

from contrastive.errors import ConfigError
from contrastive.tracking import Tracker, check_trackers
from contrastive.tracking.external import continuing, flat, identity


class Fake(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "fake"
    requires_logging_directory = False
    told: list[tuple[str, Any]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.told.append(("made", (arguments, options)))

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self.told.append(("start", None))

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(("config", values))

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self.told.append(("log", (step, values)))

    def finish(self) -> None:
        self.told.append(("finish", None))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(Fake, "told", [], raising=False)
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    return Fake


def test_a_registered_tracker_is_told_the_configuration_and_every_number(fake: type[Fake], tmp_path: Path):
    check_trackers(["fake"])
    config = {"data": {"image_key": "png", "storage": {"token": "hunter2"}}, "sizes": [1, 2]}
    tracker = Tracker(tmp_path, False, ["fake", "fake"], project="ours", config=config)
    tracker.record("train", 3, {"loss": 1.5, "name": "x", "nested": {"a": 2}})
    tracker.record("eval", 3, {"metrics": {"top1": 0.5}}, prefix="eval/digits")
    tracker.record("skip", 4, {"keys": ["a"]})
    tracker.close()
    assert fake.told == [
        ("made", (("ours",), {})),
        ("start", None),
        ("config", {"data.image_key": "png", "data.storage.token": "…", "sizes": "[1, 2]"}),
        ("log", (3, {"train/loss": 1.5, "train/nested/a": 2.0})),
        ("log", (3, {"eval/digits/metrics/top1": 0.5})),
        ("finish", None),
    ]


def test_one_that_wants_a_directory_gets_one_of_its_own(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Fake, "requires_logging_directory", True)
    Tracker(tmp_path, False, ["fake"]).close()
    assert fake.told[0] == ("made", (("contrastive", str(tmp_path / "fake")), {}))
    assert (tmp_path / "fake").is_dir()


def test_one_that_refuses_the_configuration_still_gets_the_curves(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(self: Fake, values: dict) -> None:
        raise ValueError("other parameters than before")

    monkeypatch.setattr(Fake, "store_init_configuration", refuse)
    tracker = Tracker(tmp_path, False, ["fake"])
    tracker.record("train", 1, {"loss": 1.0})
    tracker.close()
    assert ("log", (1, {"train/loss": 1.0})) in fake.told
    assert caplog.messages == ["fake: does not show the configuration: other parameters than before"]


def test_one_that_cannot_start_or_log_stops_nothing(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(self: Fake, *arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Fake, "log", fail)
    tracker = Tracker(tmp_path, False, ["fake"])
    for step in (1, 2, 3):
        tracker.record("train", step, {"loss": 1.0})
    tracker.close()
    (line,) = caplog.messages
    assert line.startswith("fake: records are lost (no route to host)")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", "tracking.trackers: 'wandbb' is no tracker of Accelerate's; did you mean wandb?"),
        ("tensorboard", "tracking.trackers: 'tensorboard' has a key of its own: set tracking.tensorboard=true"),
        ("comet_ml", "tracking.trackers: 'comet_ml' is not installed; pip install comet-ml"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused_in_one_line(name: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accelerate_tracking, "_available_trackers", [])
    with pytest.raises(ConfigError) as error:
        check_trackers([name])
    assert str(error.value) == message


def test_an_unknown_name_far_from_all_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"'qqqqqq' is no tracker of Accelerate's; known: aim, clearml, comet_ml, "):
        check_trackers(["qqqqqq"])


def test_no_trackers_need_no_check():
    check_trackers([])


def test_a_resumed_run_is_known_by_the_same_name(tmp_path: Path):
    first = identity(tmp_path)
    assert identity(tmp_path) == first
    assert len(first) == 32
    assert int(first, 16) >= 0
    (tmp_path / "trackers.json").write_text("torn")
    second = identity(tmp_path)
    assert second != first
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"id": second}


def test_what_keeps_a_run_together_is_an_option_its_tracker_knows(tmp_path: Path):
    directory = tmp_path / "my-run" / "wandb"
    assert continuing("wandb", directory, "abc", True) == {
        "id": "abc",
        "name": "my-run",
        "resume": "allow",
        "dir": str(tmp_path / "my-run"),
    }
    assert continuing("dvclive", directory, "abc", False)["resume"] is False
    assert continuing("of tomorrow", directory, "abc", True) == {}


def test_nested_settings_become_dotted_ones():
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True}) == {
        "a.b.c": 1,
        "a.d": None,
        "e": '[1, "x"]',
        "f": True,
    }
