"""Where the members of a tar lie, and whether all of it is there.

Plain headers are parsed here, ten times as fast as `tarfile`, which takes over for the extensions of the format (long
names, large sizes). Either way a tar that is cut or damaged is refused: `tarfile` alone ends silently at a bad header,
and with it the samples behind.
"""

import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from contrastive.errors import DataError

BLOCK = 512  # tar's unit
FILE = (b"0", b"\0")
FOLDER = b"5"


class Member(NamedTuple):
    """A regular file in a tar: its name, and the place of its bytes."""

    name: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """Return the regular files of a tar, in their order.

    Raises:
        DataError: not a tar, cut short, or damaged; the message names the file and the place.
    """
    with path.open("rb", buffering=1 << 16) as file:
        found = _scan(path, file)
    return _by_tarfile(path) if found is None else found


def key_and_extension(name: str) -> tuple[str, str]:
    """Return a member's key and its lower-case extension: all after the first dot, as webdataset splits names."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _scan(path: Path, file: BinaryIO) -> list[Member] | None:
    """Return the members of a tar of plain headers, None for one with extensions."""
    found: list[Member] = []
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(BLOCK)
        if not _is_sound(header):
            _require_end(path, header, offset)
            return found
        if header[156:157] not in (*FILE, FOLDER) or header[124] & 0x80:
            return None
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        if header[156:157] in FILE:
            found.append(Member(_name(header), offset + BLOCK, size))
        offset += BLOCK + -(-size // BLOCK) * BLOCK
        if offset > path.stat().st_size:
            raise DataError(f"{path}: is cut short inside member {_name(header)}; write or copy it again")


def _is_sound(header: bytes) -> bool:
    try:
        checksum = int(header[148:156].rstrip(b"\0 "), 8)
    except ValueError:
        return False
    return sum(header[:148]) + 8 * 32 + sum(header[156:]) == checksum


def _require_end(path: Path, block: bytes, offset: int) -> None:
    """Refuse a tar whose members do not end in a block of zeros."""
    if len(block) == BLOCK and not block.strip(b"\0"):
        return
    if offset == 0:
        raise DataError(f"{path}: is no tar; write or copy it again")
    what = "is damaged: there is no header" if block else "is cut short: there is no closing block"
    raise DataError(f"{path}: {what} at byte {offset}, so samples would be lost; write or copy it again")


def _name(header: bytes) -> str:
    name = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
    prefix = header[345:500].rstrip(b"\0").decode("utf-8", "surrogateescape")
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name  # GNU keeps times in that field


def _by_tarfile(path: Path) -> list[Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            found = [Member(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"{path}: is no readable tar ({error}); write or copy it again") from error
    with path.open("rb") as file:
        file.seek(end)
        _require_end(path, file.read(BLOCK), end)
    return found
