"""Where a packing is made: a hidden folder beside OUT, which takes the name OUT when all of it is there.

So OUT holds all or nothing, at any moment. One process at a time works there; a later one goes on where it stopped, if
it is the same work.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from contrastive.errors import DataError
from contrastive.files import write_whole

PROVENANCE, JOB, LISTING, LOCK = "pack.json", "job.json", "listing", ".lock"
PATIENCE_SECONDS = 2.0  # for the children of a killed packing: they hold its lock, and end a moment after it


@contextmanager
def working(out: Path, identity: Mapping[str, Any], restart: bool = False) -> Iterator[Path | None]:
    """Give the folder to work in; None where OUT is finished already, by the same work.

    `restart` throws away what other work left unfinished.

    Raises:
        DataError: OUT or the folder beside it holds something else, cannot be written, or somebody works there now.
    """
    folder = out.parent / f".{out.name}.packing"
    wanted = json.loads(json.dumps(identity, default=str))
    if out.is_mount() or (out.exists() and not out.is_dir()):
        raise DataError(f"--out {out}: is {'a mount point' if out.is_dir() else 'a file'}; name a folder in it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=PATIENCE_SECONDS):
            try:
                is_finished = _is_finished(out, folder, wanted)
                if not is_finished:
                    _take_up(folder, wanted, out, restart)
                yield None if is_finished else folder
            finally:
                if not (folder / LISTING).exists():  # nothing came of it
                    shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise DataError(f"--out {out}: another process packs into it; wait for it, or name another folder") from None


def publish(whole: Path, out: Path) -> None:
    """Give a whole folder its name, at once, and remove what is left of the work.

    Raises:
        DataError: somebody else has put something there.
    """
    try:
        os.rename(whole, out)  # over an empty folder too
    except OSError as error:
        rule = f"move what is there, and run the command again; all is in {whole}"
        raise DataError(f"--out {out}: cannot be made: {error.strerror}; {rule}") from error
    shutil.rmtree(whole.parent, ignore_errors=True)


def provenance(out: Path) -> dict[str, Any] | None:
    """Return what made the shards of a folder; None where that is not known."""
    try:
        found = json.loads((out / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "identity" in found else None


def _is_finished(out: Path, folder: Path, wanted: Mapping[str, Any]) -> bool:
    if not out.exists():
        return False
    found = provenance(out)
    if found is not None:
        if found["identity"] == wanted:
            shutil.rmtree(folder, ignore_errors=True)
            return True
        said = _difference(found["identity"], wanted)
        raise DataError(f"--out {out}: holds other shards already ({said}); name another folder")
    other = next((path.name for path in out.iterdir()), None)
    if other is not None:
        raise DataError(f"--out {out}: holds {other}, and is no folder of packed shards; name an empty or new one")
    return False


def _take_up(folder: Path, wanted: Mapping[str, Any], out: Path, restart: bool) -> None:
    """Leave work in the folder that is the same, and none else.

    Raises:
        DataError: it holds other work.
    """
    path = folder / JOB
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == wanted:
        return
    if found is not None and (folder / LISTING).exists() and not restart:
        rule = "give the same words again to go on, name another folder, or give --restart to throw it away"
        raise DataError(f"--out {out}: was begun in another way ({_difference(found, wanted)}); {rule}")
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    write_whole(path, json.dumps(wanted))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in a few words what is not the same."""
    one, other = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    said = [f"{name}: {_shown(one.get(name))} there, {_shown(other.get(name))} now" for name in names[:3]]
    return "; ".join(said) + ("; …" if len(names) > 3 else "")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
