"""Tars to an index of usable samples: where each one's image and caption lie.

A sample is usable when it has an image member and a caption member. Members of one sample share a key and need not be
adjacent. Nothing but plain tar is opened, and nothing in a tar is ever unpickled or executed.
"""

import glob
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import braceexpand
import numpy as np
from numpy.typing import NDArray

from contrastive.errors import DataError

BLOCK = 512  # tar's unit


@dataclass(frozen=True)
class Samples:
    """Every usable sample of a set of shards: row i says in which shard, and at which bytes, image and caption lie."""

    shards: tuple[Path, ...]
    keys: tuple[str, ...]
    shard: NDArray[np.int32]  # [N]
    image: NDArray[np.int64]  # [N, 2]: offset, size
    caption: NDArray[np.int64]  # [N, 2]: offset, size
    unusable: int  # samples that lack an image or a caption

    def __len__(self) -> int:
        return len(self.keys)


def expand(spec: str) -> list[Path]:
    """Return the tars that a path, directory, glob, brace pattern, or several of them joined by `::` name.

    Raises:
        DataError: a part names nothing, names a missing file, or is a shell pipe.
    """
    found: list[Path] = []
    for part in filter(None, (p.strip() for p in spec.split("::"))):
        if part.lower().startswith("pipe:"):
            raise DataError(f"data.train: {part!r} would run a shell command; copy the shards to a file system")
        if "://" in part:
            raise DataError(f"data.train: {part!r} is a URL; shards are read from a file system, mount or copy them")
        found += _expand_part(part)
    if not found:
        raise DataError(
            "data.train: names no shards; give a path, a directory, a glob or a brace pattern of .tar files"
        )
    return found


def _expand_part(part: str) -> list[Path]:
    if Path(part).is_dir():
        shards = sorted(Path(part).glob("*.tar"))
        if not shards:
            raise DataError(f"data.train: the directory {part} holds no .tar file")
        return shards
    names = list(braceexpand.braceexpand(part))
    paths = [Path(hit) for name in names for hit in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        count = f" ({len(missing)} of {len(paths)} shards are missing)" if len(paths) > 1 else ""
        raise DataError(f"data.train: {missing[0] if missing else part} does not exist{count}")
    return paths


def index(shards: list[Path], image_key: str, caption_key: str) -> Samples:
    """Return the usable samples of `shards`, in the order of the tars.

    `image_key` lists the members that may hold the image (`jpg;png`), first match wins; of `caption_key` only the
    member before the first dot matters here (`json` of `json.captions`).

    Raises:
        DataError: a shard is no tar, is damaged, or no sample has both members.
    """
    image_members, caption_member = image_key.split(";"), caption_key.partition(".")[0]
    keys: list[str] = []
    rows: list[tuple[int, int, int, int, int]] = []
    seen: Counter[str] = Counter()
    unusable = 0
    for number, path in enumerate(shards):
        for key, members in _samples_of(path).items():
            seen.update(members.keys())  # of a mapping, Counter would add the values
            image = next((members[m] for m in image_members if m in members), None)
            caption = members.get(caption_member)
            if image is None or caption is None:
                unusable += 1
                continue
            keys.append(key)
            rows.append((number, *image, *caption))
    if not rows:
        _refuse(seen, image_members, caption_member)
    table = np.array(rows, dtype=np.int64)
    return Samples(tuple(shards), tuple(keys), table[:, 0].astype(np.int32), table[:, 1:3], table[:, 3:5], unusable)


def _refuse(seen: Counter[str], image_members: list[str], caption_member: str) -> None:
    members = ", ".join(name for name, _ in seen.most_common(12)) or "nothing"
    for setting, wanted in (("data.image_key", image_members), ("data.caption_key", [caption_member])):
        if not any(name in seen for name in wanted):
            raise DataError(f"{setting}: no sample has a member {' or '.join(wanted)}; the shards hold {members}")
    raise DataError("data.train: no sample has both an image and a caption; do their file names share a key?")


def _samples_of(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(path):
        folder, _, file = name.rpartition("/")
        stem, dot, extension = file.partition(".")
        if dot and stem:
            samples.setdefault(f"{folder}/{stem}" if folder else stem, {}).setdefault(extension.lower(), (offset, size))
    return samples


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset of the data, size) of the regular files in a tar.

    Plain headers are parsed here, ten times as fast as `tarfile`, which takes over for long names and other extensions.
    """
    length = path.stat().st_size
    if length < 2 * BLOCK:
        raise DataError(f"{path}: is empty or cut short ({length} bytes); write it again")
    found: list[tuple[str, int, int]] = []
    with path.open("rb", buffering=1 << 16) as file:
        offset = 0
        while offset + BLOCK <= length:
            file.seek(offset)
            header = file.read(BLOCK)
            if not header.strip(b"\0"):
                break
            parsed = _parse(header)
            if parsed is None:
                yield from _members_by_tarfile(path)
                return
            name, size, kind = parsed
            if offset + BLOCK + size > length:
                raise DataError(f"{path}: is cut short inside member {name}; write it again")
            if kind in (b"0", b"\0"):
                found.append((name, offset + BLOCK, size))
            offset += BLOCK + -(-size // BLOCK) * BLOCK
    yield from found


def _parse(header: bytes) -> tuple[str, int, bytes] | None:
    """Return (name, size, type) of a plain tar header, or None for an extension or anything unsound."""
    kind = header[156:157]
    try:
        checksum = int(header[148:156].rstrip(b"\0 ") or b"0", 8)
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        name = header[:100].rstrip(b"\0").decode()
        prefix = header[345:500].rstrip(b"\0").decode() if header[257:262] == b"ustar" else ""
    except ValueError:  # UnicodeDecodeError is one: base-256 sizes, odd names, HTML saved as a tar
        return None
    if kind not in (b"0", b"\0", b"5") or sum(header[:148]) + 8 * 32 + sum(header[156:]) != checksum:
        return None
    return (f"{prefix}/{name}" if prefix else name), size, kind


def _members_by_tarfile(path: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, member.offset_data, member.size
    except tarfile.TarError as error:
        raise DataError(f"{path}: is not a readable tar ({error}); write it again") from error
