"""Whole shards on a local disk: fetched once by whoever comes first, bounded, and resumed where a fetch broke off."""

import contextlib
import errno
import gzip
import hashlib
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from filelock import FileLock

from contrastive.data.access import ReadError, StorageOptions, Watch, unwatched
from contrastive.data.remote import Transfers

PIECE = 1 << 20
STALE_SECONDS = 24 * 3600.0  # after which what a fetch left behind is nobody's any more


class ShardCache:
    """A folder of whole shards, at most `cache_bytes` of them; the least recently used go first."""

    def __init__(self, options: StorageOptions, transfers: Transfers, watch: Watch = unwatched) -> None:
        self.options, self.transfers, self.watch = options, transfers, watch
        self._versions: dict[str, tuple[str, int]] = {}  # of URLs that this process has seen

    def url(self, url: str) -> Path:
        """Return the local copy of a URL's file.

        Raises:
            ReadError: it cannot be had.
            OSError: the disk is full, and nothing is left to throw away.
        """
        if url not in self._versions:
            stat = self.transfers.stat(url)
            self._versions[url] = stat.version, stat.size
        version, size = self._versions[url]

        def fetch(part: BinaryIO) -> None:
            self.transfers.copy(url, part.tell(), None if size < 0 else size, part.write)

        return self._entry(f"{url} {version}", None if size < 0 else size, fetch, resumes=bool(version))

    def pipe(self, location: str, total: int | None) -> Path:
        """Return what a shell command wrote; of `total` bytes, its exit status is not asked.

        Raises:
            ReadError: it fails as often as it may, or stalls.
            OSError: the disk is full, and nothing is left to throw away.
        """
        command = location.removeprefix("pipe:")

        def fetch(part: BinaryIO) -> None:
            failures = 0
            while True:
                part.seek(0)
                part.truncate()
                try:
                    return self._run(location, command, part, total)
                except ReadError:
                    failures += 1
                    if failures > self.options.retries:
                        raise
                    time.sleep(min(self.options.backoff_seconds * 2 ** (failures - 1), 30.0))

        return self._entry(location, total, fetch, resumes=False)

    def unpacked(self, location: str, packed: Path) -> Path:
        """Return the plain tar of a gzip file.

        Raises:
            ReadError: it is damaged.
            OSError: the disk is full, and nothing is left to throw away.
        """
        stat = packed.stat()

        def fetch(part: BinaryIO) -> None:
            part.seek(0)
            part.truncate()
            try:
                with gzip.open(packed, "rb") as source:
                    shutil.copyfileobj(source, part, PIECE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ReadError("short", f"{location}: is no whole gzip file ({error}); copy it again") from error

        return self._entry(f"{packed} {stat.st_mtime_ns} {stat.st_size}", None, fetch, resumes=False)

    def _entry(self, name: str, size: int | None, fetch: Callable[[BinaryIO], None], *, resumes: bool) -> Path:
        """Return the file of an entry, which `fetch` writes to the end of an open file where it is missing."""
        folder = self.options.cache_folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).hexdigest() + ".tar")
        if _is_whole(path, size):
            return path
        with FileLock(f"{path}.lock"):  # one process of the machine fetches, the others wait for it
            if _is_whole(path, size):
                return path
            part = path.with_suffix(".part")
            if not resumes:
                part.unlink(missing_ok=True)
            self._make_room(size or 0, keep=part)
            try:
                self._fill(part, fetch)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._make_room(self.options.cache_bytes, keep=part)
                self._fill(part, fetch)
            if size is not None and part.stat().st_size != size:
                found = part.stat().st_size
                part.unlink()
                raise ReadError("changed", f"{name.split()[0]}: {found} bytes came, not {size}; fetch it again")
            part.replace(path)
        self._make_room(0, keep=path)
        return path

    def _fill(self, part: Path, fetch: Callable[[BinaryIO], None]) -> None:
        with part.open("ab") as file:
            fetch(file)

    def _make_room(self, size: int, keep: Path) -> None:
        """Delete the least recently used entries until `size` more bytes stay within the bound."""
        entries = []
        for path in self.options.cache_folder.glob("*.*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                is_left_behind = path.suffix == ".part" and time.time() - stat.st_mtime > STALE_SECONDS
                if path.suffix == ".tar" or is_left_behind:
                    entries.append((stat.st_mtime, stat.st_size, path))
        held = sum(size for _, size, _ in entries)
        for _, bytes_, path in sorted(entries):
            if held + size <= self.options.cache_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)  # who has it open reads on
                held -= bytes_

    def _run(self, location: str, command: str, part: BinaryIO, total: int | None) -> None:
        self.watch("pipe", location)
        process = subprocess.Popen(  # noqa: S602  (a shell command is what a pipe is; the user allowed it)
            command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            errors = _last_line(process.stderr)
            count = self._copy(location, process, part)
            status = process.wait(self.options.stall_seconds)
        except subprocess.TimeoutExpired:
            status, count = -1, part.tell()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.watch("", "")
        if status and count != total:
            said = errors() or "it said nothing"
            raise ReadError("failed", f"{location}: ended with status {status} after {count} bytes: {said}")

    def _copy(self, location: str, process: "subprocess.Popen[bytes]", part: BinaryIO) -> int:
        assert process.stdout is not None, "the pipe was asked for"
        pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(process.stdout, pieces), daemon=True, name="data pipe").start()
        while True:
            try:
                piece = pieces.get(timeout=self.options.stall_seconds)
            except queue.Empty:
                rule = "is the command waiting for something?"
                said = f"{location}: no byte for {self.options.stall_seconds:g} s, so it was stopped; {rule}"
                raise ReadError("stalled", said) from None
            if not piece:
                return part.tell()
            part.write(piece)
            self.watch("pipe", location)


def _is_whole(path: Path, size: int | None) -> bool:
    """Whether an entry is there and, where that is known, of the right size; it counts as used now."""
    try:
        found = path.stat().st_size
        if size is not None and found != size:
            path.unlink(missing_ok=True)
            return False
        os.utime(path)
    except OSError:
        return False
    return True


def _pump(stream: IO[bytes], pieces: "queue.SimpleQueue[bytes]") -> None:
    with stream:
        while piece := stream.read1(PIECE):  # type: ignore[attr-defined]
            pieces.put(piece)
        pieces.put(b"")


def _last_line(stream: IO[bytes] | None) -> Callable[[], str]:
    """Return what tells the last line of a stream that a thread reads to its end."""
    assert stream is not None, "the pipe was asked for"
    kept = [b""]

    def read() -> None:
        with stream:
            for line in stream:
                kept[0] = line.strip() or kept[0]

    thread = threading.Thread(target=read, daemon=True, name="data pipe errors")
    thread.start()

    def last() -> str:
        thread.join(1.0)
        return kept[0][:200].decode(errors="replace")

    return last
