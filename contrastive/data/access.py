"""What all ways to a shard's bytes share: options, the facts of a file, and the one error."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from contrastive.errors import DataError

Reason: TypeAlias = Literal["missing", "short", "changed", "stalled", "refused", "failed"]
Watch: TypeAlias = Callable[[str, str], None]  # stage, location; both empty when it is over


class ReadError(DataError):
    """Bytes of a shard cannot be had; `reason` is what to count by."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class StorageOptions:
    """How shards are read. Without a `cache` folder remote shards are read in ranges; pipes and gzip always have one.

    `memory_bytes` bounds, per process, the ranges that wait for their turn. Pauses between tries begin at
    `backoff_seconds` and double, up to 30 s.
    """

    cache: Path | None = None
    cache_bytes: int = 100 * 2**30
    memory_bytes: int = 2**30
    chunk_bytes: int = 8 * 2**20
    retries: int = 8
    stall_seconds: float = 60.0
    backoff_seconds: float = 0.5

    @property
    def cache_folder(self) -> Path:
        """Where whole shards are kept."""
        return cache_home() / "shards" if self.cache is None else self.cache


class Stat(NamedTuple):
    """Size in bytes, -1 when nobody knows, and what changes when the content does: a time or an ETag."""

    size: int
    version: str


def is_remote(location: str) -> bool:
    """Whether a location is a URL or a pipe."""
    return "://" in location or location.startswith("pipe:")


def is_packed(location: str) -> bool:
    """Whether a location is a compressed tar."""
    return not location.startswith("pipe:") and location.partition("?")[0].endswith((".gz", ".tgz"))


def cache_home() -> Path:
    """Return the folder for what can be made again: CONTRASTIVE_CACHE, else below the user's cache folder."""
    if own := os.environ.get("CONTRASTIVE_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "contrastive"


def unwatched(stage: str, location: str) -> None:
    """Note nothing."""


def plain_state(state: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return an object's state without what must not travel to another process."""
    return {name: value for name, value in state.items() if name not in names}
