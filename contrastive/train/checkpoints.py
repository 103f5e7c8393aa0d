"""The checkpoints of a run on disk: each one whole or not there, known by its hashes, pruned when superseded.

A checkpoint is a folder `step-00000400`. It is written under another name, sealed by a manifest of sizes and SHA-256,
brought to disk (fsync) and renamed, so that whatever ends the machine leaves either it or what was there before.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from contrastive.errors import RunError
from contrastive.files import sha256, sync, write_durably
from contrastive.models.checkpoint import BEST

log = logging.getLogger("contrastive")
FOLDER, MANIFEST = "checkpoints", "manifest.json"
NAME = re.compile(r"step-(\d{8,})")
FORMAT = 1
ROOM = 1.1  # free space asked for, in sizes of the checkpoint: a file system takes some for itself


class Checkpoints:
    """The checkpoints of one run; one process writes them. `keep` newest ones stay, None for all."""

    def __init__(self, run: Path, keep: int | None) -> None:
        self.folder, self.keep = run / FOLDER, keep
        self._verified: set[int] = set()

    def path(self, step: int) -> Path:
        """Return where the checkpoint of `step` lies; names sort by step."""
        return self.folder / f"step-{step:08d}"

    def draft(self, step: int) -> Path:
        """Return where the checkpoint of `step` is written before it takes its place."""
        return self.folder / f".{self.path(step).name}.writing"

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, damaged ones too, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir()]
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def newest(self, before: int | None = None) -> tuple[int | None, list[str]]:
        """Return the step of the newest checkpoint that is as it was written, and what is wrong with newer ones.

        With `before` only earlier steps count.
        """
        problems: list[str] = []
        for step in self.steps():
            if before is not None and step >= before:
                continue
            problem = damage(self.path(step))
            if problem is None:
                self._verified.add(step)
                return step, problems
            problems.append(f"{self.path(step)}: {problem}")
        return None, problems

    def write(self, step: int, size: int, fill: Callable[[Path], None]) -> Path:
        """Write the checkpoint of `step`, of about `size` bytes, with `fill`, which is given an empty folder.

        Raises:
            OSError: the disk is full or gone. What was there before is still there, and nothing else.
        """
        target, draft = self.path(step), self.draft(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.require_room(size)
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            fill(draft)
            seal(draft)
            _remove(target)  # a damaged one of this step, or one of a run that was set back
            draft.rename(target)
            sync(self.folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._verified.add(step)
        return target

    def require_room(self, size: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            OSError: fewer than `size` bytes and some are free.
        """
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free, needed = shutil.disk_usage(existing).free, int(size * ROOM)
        if free < needed:
            raise OSError(f"{self.folder}: {needed:,} bytes are needed and {free:,} are free")

    def prune(self, best: Iterable[int] = ()) -> None:
        """Remove what `keep` newer sound checkpoints supersede, and what is not among the `best`; a failure is told."""
        if self.keep is None:
            return
        sound = [step for step in self.steps() if step in self._verified]
        if len(sound) < self.keep:
            return
        oldest, kept = sound[self.keep - 1], set(best)
        for step in self.steps():
            if step < oldest and step not in kept:
                try:
                    _remove(self.path(step))
                except OSError as error:
                    log.warning("an old checkpoint cannot be removed: %s", error)

    def clean(self) -> None:
        """Remove what an interrupted write or removal has left."""
        for pattern in (".step-*.writing", ".step-*.removing"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def best(self) -> dict[int, float]:
        """Return the value of the metric by step, of the checkpoints that are kept for it."""
        try:
            held = json.loads((self.folder / BEST).read_text())["checkpoints"]
            return {int(one["step"]): float(one["value"]) for one in held}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def note_best(self, step: int, value: float, metric: str, count: int, *, highest: bool) -> dict[int, float]:
        """Put `step` among the `count` best by `metric` if it belongs there; return them, the best first."""
        held = {**self.best(), step: value}
        there = [one for one in held if self.path(one).is_dir()]
        # Of equal values the earlier step is the better one.
        ranked = sorted(there, key=lambda one: (-held[one] if highest else held[one], one))[:count]
        best = {one: held[one] for one in ranked}
        rows = [{"step": one, "value": value, "checkpoint": self.path(one).name} for one, value in best.items()]
        content = {"metric": metric, "best_is": "highest" if highest else "lowest", "checkpoints": rows}
        write_durably(self.folder / BEST, json.dumps(content, indent=1) + "\n")
        return best


def seal(folder: Path) -> None:
    """Bring every file to disk and write down their sizes and hashes, the manifest last."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    for path in (path for path in folder.rglob("*") if path.is_dir()):
        sync(path)
    write_durably(folder / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None when every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] > FORMAT:
            return f"is of format {manifest['format']}, this version reads {FORMAT}"
        files = {str(name): (int(one["bytes"]), str(one["sha256"])) for name, one in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    problems = (_changed(folder, name, *expected) for name, expected in files.items())
    return next((problem for problem in problems if problem), None)


def _changed(folder: Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} lies outside of the checkpoint"
    try:
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found:,} bytes, not the {size:,} that were written"
        return None if sha256(path) == digest else f"{name} is not what was written (manifest mismatch)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def require_sound(folder: Path) -> None:
    """Refuse a checkpoint that is not as it was written.

    Raises:
        RunError: it is not.
    """
    if problem := damage(folder):
        raise RunError(f"{folder}: {problem}")


def _remove(folder: Path) -> None:
    """Remove a checkpoint; one that is half removed has another name and is never taken for one."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".{folder.name}.removing")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)
