"""A run directory: refused when it holds something else, filled as training goes, closed when it is done."""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive.config import load, to_dict, to_yaml
from contrastive.errors import ConfigError, RunError
from contrastive.files import write_durably
from contrastive.settings import Config
from contrastive.train.resume import Change, changes, require_same_run

CONFIG, ENVIRONMENT, FINISHED, PREEMPTED = "config.yaml", "environment.json", "finished.json", "preempted.json"


def is_finished(directory: Path, config: Config) -> bool:
    """Whether this run has already ended here: with these settings, or with others that would not have changed it."""
    try:
        before = json.loads((directory / FINISHED).read_text())["config"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{directory / FINISHED}: cannot be read ({type(error).__name__}); delete it") from error
    return not any(change.meaning != "free" for change in changes(before, config))


def require_usable(directory: Path, config: Config) -> list[Change]:
    """Refuse a directory in which `config` cannot run; return how it differs from the run that it holds.

    Raises:
        RunError: it holds something else, or a run that may not go on.
    """
    if directory.is_symlink():
        raise RunError(f"run.directory: {directory} is a symbolic link; name the directory itself")
    held = [] if not directory.exists() else [path for path in directory.iterdir() if not path.name.startswith(".lock")]
    if not held:
        if config.run.resume == "must":
            raise RunError(f"run.resume: must, and {directory} holds no run to go on with")
        return []
    if not (directory / CONFIG).is_file():
        rule = "choose another with run.directory=…, or delete it"
        raise RunError(f"run.directory: {directory} holds files of something else; {rule}")
    if config.run.resume == "never":
        rule = "choose another with run.directory=…, delete it, or let run.resume be auto"
        raise RunError(f"run.directory: {directory} holds a run, and run.resume is never; {rule}")
    try:
        before = to_dict(load([str(directory / CONFIG)]))
    except ConfigError as error:
        raise RunError(f"run.directory: {directory} holds a run that cannot go on: {error}") from error
    found = changes(before, config)
    require_same_run(found, config.run.accept_changes, str(directory))
    return found


def create(directory: Path, config: Config, environment: Mapping[str, Any]) -> None:
    """Make the directory, with the resolved configuration and the environment in it; it is no longer finished.

    Raises:
        RunError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (FINISHED, PREEMPTED):
            (directory / name).unlink(missing_ok=True)
        write_durably(directory / CONFIG, to_yaml(config))
        write_durably(directory / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
    except OSError as error:
        raise RunError(f"run.directory: {directory} cannot be written: {error.strerror}") from error


def require_writable(directory: Path) -> None:
    """Refuse a directory in which nothing can be written, before anything is computed.

    Raises:
        RunError: it is one.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise RunError(f"run.directory: {directory} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"run.directory: {directory} cannot be written: {existing} is read-only")


def finish(directory: Path, config: Config, figures: Mapping[str, Any]) -> None:
    """Mark the run as done, with its closing figures."""
    write_durably(directory / FINISHED, json.dumps({**figures, "config": to_dict(config)}, indent=1) + "\n")


def preempt(directory: Path, number: int, step: int, checkpoint: Path) -> None:
    """Mark the run as stopped by a signal and saved; whoever started it may start it again."""
    content = {
        "signal": signal.Signals(number).name,
        "step": step,
        "checkpoint": str(checkpoint),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_durably(directory / PREEMPTED, json.dumps(content, indent=1) + "\n")
