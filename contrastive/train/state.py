"""A run directory: refused when it holds another run, filled as training goes, closed when it is done."""

import json
from pathlib import Path
from typing import Any

from contrastive.config import to_dict, to_yaml
from contrastive.errors import RunError
from contrastive.settings import Config

CONFIG, ENVIRONMENT, FINISHED = "config.yaml", "environment.json", "finished.json"


def checkpoint_path(directory: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies; names sort by step."""
    return directory / "checkpoints" / f"step-{step:08d}"


def is_finished(directory: Path, config: Config) -> bool:
    """Whether exactly this run has already ended here."""
    path = directory / FINISHED
    return path.is_file() and json.loads(path.read_text())["config"] == json.loads(json.dumps(to_dict(config)))


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory that holds anything already.

    Raises:
        RunError: it does, or it is a file.
    """
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        held = "another run" if (directory / CONFIG).is_file() else "files of something else"
        raise RunError(f"run.directory: {directory} holds {held}; choose another with run.directory=…, or delete it")


def create(directory: Path, config: Config, environment: dict[str, Any]) -> None:
    """Make the directory, with the resolved configuration and the environment in it.

    Raises:
        RunError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(to_yaml(config))
        (directory / ENVIRONMENT).write_text(json.dumps(environment, indent=1) + "\n")
    except OSError as error:
        raise RunError(f"run.directory: {directory} cannot be written: {error.strerror}") from error


def finish(directory: Path, config: Config, figures: dict[str, Any]) -> None:
    """Mark the run as done, with its closing figures."""
    (directory / FINISHED).write_text(json.dumps({**figures, "config": to_dict(config)}, indent=1) + "\n")
