"""Trackers of other makers (Weights & Biases, MLflow, …), as Accelerate knows them."""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contrastive.errors import ConfigError
from contrastive.files import write_whole
from contrastive.registry import suggest
from contrastive.tracking.redaction import redacted
from contrastive.tracking.sinks import log

IDENTITY = "trackers.json"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that could not be started, before anything is trained.

    Raises:
        ConfigError: Accelerate does not know it, or its package is not installed.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, LoggerType, get_available_trackers

    shipped, installed = {str(kind) for kind in LoggerType}, {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name == "tensorboard":
            raise ConfigError("tracking.trackers: 'tensorboard' has a key of its own: set tracking.tensorboard=true")
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(LOGGER_TYPE_TO_CLASS.keys() - {"tensorboard"})
            raise ConfigError(f"tracking.trackers: {name!r} is no tracker of Accelerate's{suggest(name, known)}")
        if name in shipped and name not in installed:
            raise ConfigError(f"tracking.trackers: {name!r} is not installed; pip install {name.replace('_', '-')}")


class External:
    """A sink that is one of Accelerate's trackers.

    `config` is shown to it without its secrets. Weights & Biases, SwanLab, Trackio, Comet and DVCLive continue a
    resumed run's curves; the others begin another run of theirs, at the step where it goes on.
    """

    def __init__(
        self, name: str, directory: Path, project: str, config: Mapping[str, Any], *, identity: str, is_resumed: bool
    ) -> None:
        self.name, self.directory, self.project = name, directory, project
        self.config = flat(redacted(config))
        self.options = continuing(name, directory, identity, is_resumed)
        self._tracker: Any = None

    def open(self) -> None:
        """Start the tracker and show it the configuration."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[self.name]
        given = [self.project]
        if kind.requires_logging_directory:
            self.directory.mkdir(exist_ok=True)
            given.append(str(self.directory))
        self._tracker = kind(*given, **self.options)
        self._tracker.start()
        try:
            self._tracker.store_init_configuration(self.config)
        except Exception as error:  # noqa: BLE001  (it may refuse another configuration on a resume; its curves matter)
            log.warning("%s: does not show the configuration: %s", self.name, error)

    def write(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Write the numbers."""
        if numbers:
            self._tracker.log(dict(numbers), step=row["step"])

    def close(self) -> None:
        """Let the tracker send what it still holds."""
        self._tracker.finish()


def continuing(name: str, directory: Path, identity: str, is_resumed: bool) -> dict[str, Any]:
    """Return the options of a tracker's constructor by which it knows the run again."""
    run = directory.parent.name
    options: dict[str, dict[str, Any]] = {
        "clearml": {"task_name": run, "reuse_last_task_id": False},  # else it empties the task of the same name
        "comet_ml": {"experiment_key": identity},
        "dvclive": {"dir": str(directory), "resume": is_resumed},
        "mlflow": {"run_name": run},
        "swanlab": {"id": identity, "resume": "allow"},
        "trackio": {"name": f"{run}-{identity[:8]}", "resume": "allow"},
        "wandb": {"id": identity, "name": run, "resume": "allow", "dir": str(directory.parent)},
    }
    return options.get(name, {})


def identity(directory: Path) -> str:
    """Return the 32 hexadecimal digits by which trackers know the run in a directory; made once and kept there."""
    path = directory / IDENTITY
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["id"])
    found = uuid.uuid4().hex
    with suppress(OSError):  # only a resume would ask for it
        write_whole(path, json.dumps({"id": found}) + "\n")
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str | None]:
    """Return nested mappings as one, with dotted keys; lists become JSON."""
    found: dict[str, bool | int | float | str | None] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            is_plain = value is None or isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if is_plain else json.dumps(value, default=str)
    return found
