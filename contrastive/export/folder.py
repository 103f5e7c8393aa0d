"""The folder of an export: whole and sealed by export.json, or not there."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contrastive.errors import ConfigError, RunError
from contrastive.export.exporter import Exporter
from contrastive.files import sha256

RECORD, SCHEMA = "export.json", "contrastive-export/1"


def check_output(out: Path) -> None:
    """Refuse an output folder that exists or cannot be made.

    Raises:
        ConfigError: it does, or its parent is a file.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already; nothing is overwritten: give another folder, or remove it")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ConfigError(f"{out}: {parent} is a file, not a folder; give another place")


def check_requirements(name: str, exporter: Exporter) -> None:
    """Refuse a format whose libraries are not installed.

    Raises:
        ConfigError: naming them, with the line of pip.
    """
    absent = [package for module, package in exporter.requires.items() if find_spec(module) is None]
    if absent:
        wanted = " ".join(dict.fromkeys(absent))
        raise ConfigError(f"--to {name}: needs {', '.join(dict.fromkeys(absent))}; pip install {wanted}")


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        RunError: it cannot be written; the disk may be full.
    """
    scratch = out.with_name(f".{out.name}.writing")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        scratch.rename(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Write export.json: the record, and size and SHA-256 of every other file. Everybody may read them all.

    Some libraries keep what they write to its owner.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
    for path in files:
        path.chmod(0o644)
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }
    content = {"schema": SCHEMA, **record, "files": listed}
    (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
