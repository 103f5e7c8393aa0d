"""img2dataset, in an environment of its own: its command, what it has written, and shards that are worth a second try.

It pins older versions of webdataset, pandas, OpenCV and albumentations, and needs Python 3.12 or older (it imports
imghdr), so it is never a dependency. X-Robots-Tag directives (noai, noimageai, noindex, noimageindex) are obeyed:
nothing here turns that off. What its options do: https://github.com/rom1504/img2dataset (read at version 1.47.0).
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrastive.errors import DataError
from contrastive.files import write_whole

REQUIREMENT = "img2dataset==1.47.0"
NEWEST_PYTHON = (3, 12)
ENVIRONMENT = ".venv-img2dataset"
SHARD_SIZE = 10_000
STATS = "_stats.json"


@dataclass(frozen=True)
class Download:
    """How images are downloaded and kept.

    `size`: images whose shorter side (`keep_ratio`; the longer one with `keep_ratio_largest`) is longer are made so
    long and become JPEGs of quality 95, the others keep their bytes; None keeps all bytes. Making smaller drops the
    EXIF orientation: the pixels stay as the camera stored them, which is also how training reads them.
    `hashes` is a column of SHA-256 sums: images that have changed since are left out. `boxes` is one of faces to blur.
    """

    size: int | None = 512
    mode: str = "keep_ratio"
    processes: int = 4
    threads: int = 64
    retries: int = 2
    columns: tuple[str, ...] = ("id",)  # of the list, kept in the json member
    hashes: str | None = None
    boxes: str | None = None
    digits: int = 5  # of shard names: enough for the whole list


def img2dataset_command(program: str, listed: Path, folder: Path, how: Download) -> list[str]:
    """Return the command that downloads the images of a list into tars of a folder, and goes on where it stopped."""
    resize: dict[str, object] = {"resize_mode": "no", "disable_all_reencoding": True}
    if how.size is not None:
        sizes = {"image_size": how.size, "resize_mode": how.mode, "resize_only_if_bigger": True}
        resize = {**sizes, "skip_reencode": True, "downscale_interpolation": "area", "encode_quality": 95}
    options: dict[str, object] = {
        "url_list": listed,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "save_additional_columns": json.dumps(how.columns, separators=(",", ":")),
        "output_folder": folder,
        "output_format": "webdataset",
        "number_sample_per_shard": SHARD_SIZE,
        "oom_shard_count": how.digits,
        **resize,
        "processes_count": how.processes,
        "thread_count": how.threads,
        "timeout": 10,
        "retries": how.retries,
        "compute_hash": "sha256",
        **({} if how.hashes is None else {"verify_hash": json.dumps([how.hashes, "sha256"], separators=(",", ":"))}),
        **({} if how.boxes is None else {"bbox_col": how.boxes}),
        "incremental_mode": "incremental",
        "enable_wandb": False,
    }
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def environment_commands(folder: Path) -> tuple[str, list[list[str]]]:
    """Return img2dataset's program in an environment within `folder`, and the commands that make it where it is not.

    Raises:
        DataError: this Python is too new for it.
    """
    home = folder / ENVIRONMENT
    program = home / "bin" / "img2dataset"
    if program.exists():
        return str(program), []
    if sys.version_info[:2] > NEWEST_PYTHON:
        rule = f"{REQUIREMENT} needs Python {'.'.join(map(str, NEWEST_PYTHON))} or older"
        raise DataError(f"--img2dataset: {rule}; install it in an environment of that and give its program here")
    pip = [str(home / "bin" / "pip"), "install", REQUIREMENT]
    return str(program), [[sys.executable, "-m", "venv", str(home)], pip]


@dataclass
class Fetched:
    """What img2dataset says of the shards it has finished."""

    shards: int = 0
    tried: int = 0
    successes: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        share = self.successes / max(self.tried, 1)
        said = f"{self.successes:,} of {self.tried:,} images downloaded ({share:.1%}), {self.shards:,} shards"
        failed = ", ".join(f"{count:,} {reason}" for reason, count in self.failures.most_common(5))
        return f"{said}; not: {failed}" if failed else said


def fetched(folder: Path) -> Fetched:
    """Return what was downloaded into a folder, by the statistics beside its tars.

    Raises:
        DataError: a file of statistics is damaged.
    """
    found = Fetched()
    for path in _stats(folder):
        said = _read(path)
        found.shards += 1
        found.tried += int(said["count"])
        found.successes += int(said["successes"])
        found.failures.update({reason: count for reason, count in said["status_dict"].items() if reason != "success"})
    return found


def forget_shards(folder: Path, below: float) -> int:
    """Have shards downloaded again of which less than a share succeeded; return how many.

    A network that fails for an hour empties whole shards, and img2dataset never comes back to a finished one.
    """
    poor = []
    for path in _stats(folder):
        said = _read(path)
        if int(said["successes"]) < below * int(said["count"]):
            poor.append(path)
    for path in poor:
        path.unlink()
    return len(poor)


def claim(folder: Path, identity: dict[str, object]) -> None:
    """Refuse to go on with a download that was begun otherwise, for its keys would mean other rows.

    Raises:
        DataError: it was begun with another list or another size.
    """
    note = folder.with_name(folder.name + ".json")  # not within: img2dataset reads every .json there as its own
    said = json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if note.exists() and note.read_text(encoding="utf-8") != said and any(folder.glob("*.tar")):
        raise DataError(f"{folder}: was begun with another list or size (see {note}); remove it, or name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(note, said)


def move_finished(folder: Path, target: Path) -> int:
    """Move the tars that are finished into `target`, a folder of the same disk; return how many.

    They leave, rather than being indexed where they are, because img2dataset cannot go on beside another's .json.
    """
    target.mkdir(parents=True, exist_ok=True)
    done = [path.with_name(path.name.removesuffix(STATS) + ".tar") for path in _stats(folder)]
    present = [path for path in done if path.exists()]
    for path in present:
        shutil.move(path, target / path.name)
    return len(present)


def _stats(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(f"[0-9]*{STATS}"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("count", "successes", "status_dict")}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: cannot be read; remove it, and its shard is downloaded again") from None
