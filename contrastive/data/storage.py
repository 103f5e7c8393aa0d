"""The bytes of shards, wherever they lie: files, URLs and pipes behind one door."""

import errno
import io
import logging
import os
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from contrastive.data.access import (
    ReadError,
    Stat,
    StorageOptions,
    Watch,
    cache_home,
    is_packed,
    is_remote,
    plain_state,
    unwatched,
)
from contrastive.data.cache import ShardCache
from contrastive.data.chunks import Chunks
from contrastive.data.remote import Transfers

__all__ = ["ReadError", "Stat", "Storage", "StorageOptions", "cache_home", "is_remote"]
log = logging.getLogger("contrastive")
OPEN_FILES = 512  # at once, of the 1,024 that a process is usually allowed
DISK_HICCUPS = 3  # tries of a local file: a network file system forgets one now and then
PASSING = (errno.EIO, errno.ESTALE, errno.ENOENT, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN)


class Storage:
    """Reads shards by location. It travels to other processes; open files, threads and buffers stay behind.

    `watch` is told what is being waited for.
    """

    def __init__(self, options: StorageOptions | None = None, watch: Watch = unwatched) -> None:
        self.options = StorageOptions() if options is None else options
        self.watch = watch
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[str, tuple[int, int]] = OrderedDict()  # descriptor and size
        self.transfers = Transfers(self.options, self._note)
        self.cache = ShardCache(self.options, self.transfers, self._note)
        self.chunks = Chunks(self.transfers, self.options)
        self._uncached = False  # the disk of the cache is full

    def __getstate__(self) -> dict[str, Any]:
        return plain_state(self.__dict__, "_files", "_process", "transfers", "cache", "chunks", "_uncached")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def stat(self, location: str) -> Stat:
        """Return size and version of a shard; of a pipe nothing is known before it was run.

        Raises:
            ReadError: it is missing, or cannot be asked.
        """
        if location.startswith("pipe:"):
            return Stat(-1, "")
        if is_remote(location):
            return self.transfers.stat(location)
        try:
            found = os.stat(location)
        except OSError as error:
            raise ReadError("missing", f"{location}: cannot be opened: {error.strerror}") from error
        return Stat(found.st_size, str(found.st_mtime_ns))

    def open(self, location: str) -> BinaryIO:
        """Return a shard as a file to scan; of a gzip file its plain content.

        Raises:
            ReadError: it cannot be had.
        """
        path = self._local(location)
        if path is None:
            size = self.stat(location).size
            if size < 0:
                raise ReadError("refused", f"{location}: its server tells no size; set data.cache to fetch it whole")
            return io.BufferedReader(_Sequential(self, location, size), 1 << 16)
        try:
            return path.open("rb", buffering=1 << 16)
        except OSError as error:
            raise ReadError("missing", f"{location}: cannot be opened: {error.strerror}") from error

    def read(self, location: str, offset: int, size: int, total: int | None = None) -> bytes:
        """Return `size` bytes from `offset`. `total` is the shard's size in its index, -1 or None when unknown.

        Raises:
            ReadError: they cannot be had, or the shard has another size now.
        """
        self._stay_in_process()
        known = None if total is None or total < 0 or is_packed(location) else total
        path = self._local(location, known)
        self.watch("read", location)
        try:
            if path is None:
                whole = self.stat(location).size if known is None else known
                return self.chunks.read(location, offset, size, whole)
            return self._read_file(location, path, offset, size, known)
        finally:
            self.watch("", "")

    def prefetch(self, location: str, offset: int, size: int, total: int) -> None:
        """Begin to fetch bytes that will be read soon, where that is worth it."""
        self._stay_in_process()
        if "://" in location and not self._is_cached(location):
            self.chunks.prefetch(location, offset, size, total)

    def close(self) -> None:
        """Close what is open."""
        for descriptor, _ in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _note(self, stage: str, location: str) -> None:
        self.watch(stage, location)

    def _stay_in_process(self) -> None:
        """Begin anew in a forked process: threads do not live there, and positions of sockets would be shared."""
        if self._process != os.getpid():
            self._begin()

    def _is_cached(self, location: str) -> bool:
        if location.startswith("pipe:") or is_packed(location):
            return True
        return is_remote(location) and self.options.cache is not None and not self._uncached

    def _local(self, location: str, total: int | None = None) -> Path | None:
        """Return the file that holds a shard's plain bytes, fetched where it has to be; None for ranges of a URL."""
        if not self._is_cached(location):
            return None if is_remote(location) else _path(location)
        try:
            if location.startswith("pipe:"):
                return self.cache.pipe(location, total)
            packed = self.cache.url(location) if is_remote(location) else Path(location)
            return self.cache.unpacked(location, packed) if is_packed(location) else packed
        except OSError as error:
            if error.errno == errno.ENOENT and not is_remote(location):
                raise ReadError("missing", f"{location}: cannot be opened: {error.strerror}") from error
            self._without_cache(location, error)
            return None

    def _without_cache(self, location: str, error: OSError) -> None:
        folder = self.options.cache_folder
        if location.startswith("pipe:") or is_packed(location):
            rule = "free some space, or name another folder with data.cache"
            raise ReadError("failed", f"{location}: {folder} cannot hold it: {error.strerror}; {rule}") from error
        log.warning("data.cache: %s: %s; shards are read in ranges from now on", folder, error.strerror)
        self._uncached = True

    def _read_file(self, location: str, path: Path, offset: int, size: int, total: int | None) -> bytes:
        for attempt in range(1 + min(DISK_HICCUPS, self.options.retries)):
            if attempt:
                time.sleep(min(self.options.backoff_seconds, 1.0) * 0.2 * 4 ** (attempt - 1))
            try:
                descriptor, whole = self._file(location, path)
                if total is not None and whole != total:
                    self._forget(location)
                    rule = "the shard was changed; run contrastive data index again, or put it back"
                    raise ReadError("changed", f"{location}: has {whole} bytes, its index says {total}: {rule}")
                content = _whole_pread(descriptor, size, offset)
                if len(content) != size:
                    self._forget(location)
                    rule = "was the shard changed while training?"
                    raise ReadError("short", f"{location}: {len(content)} of {size} bytes at {offset}; {rule}")
                return content
            except OSError as error:
                self._forget(location)
                last = error
                if error.errno not in PASSING:
                    break
        said = f"{location}: cannot be opened any more: {last.strerror}"
        raise ReadError("missing" if last.errno == errno.ENOENT else "failed", said) from last

    def _file(self, location: str, path: Path) -> tuple[int, int]:
        """Return an open descriptor of a shard and the size it has."""
        if location in self._files:
            self._files.move_to_end(location)
            return self._files[location]
        self.watch("open", location)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._files[location] = descriptor, os.fstat(descriptor).st_size
        if len(self._files) > OPEN_FILES:
            _, (oldest, _) = self._files.popitem(last=False)
            os.close(oldest)
        return self._files[location]

    def _forget(self, location: str) -> None:
        if location in self._files:
            os.close(self._files.pop(location)[0])


class _Sequential(io.RawIOBase):
    """A URL as a file that is read forward: the chunk after the present one is fetched ahead."""

    def __init__(self, storage: Storage, url: str, size: int) -> None:
        self.storage, self.url, self.size, self.position = storage, url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.position))
        if not count:
            return 0
        ahead = self.position + self.storage.options.chunk_bytes
        if ahead < self.size:
            self.storage.prefetch(self.url, ahead, 1, self.size)
        buffer[:count] = self.storage.read(self.url, self.position, count, self.size)
        self.position += count
        return count


@lru_cache(OPEN_FILES)
def _path(location: str) -> Path:  # pathlib takes longer than the read
    return Path(location)


def _whole_pread(descriptor: int, size: int, offset: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size:  # a signal, or the 2 GiB that one call gives
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content
