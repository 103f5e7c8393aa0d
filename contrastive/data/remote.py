"""Bytes of URLs, by transfers that begin again where they broke off.

HTTP is read with the standard library, whose sockets tell a stall and leave what has come so far; fsspec's HTTP
answers all or nothing. Every other scheme goes through fsspec in small ranges.
"""

import email.utils
import http.client
import queue
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import fsspec

from contrastive.data.access import ReadError, Reason, Stat, StorageOptions, Watch, unwatched

T = TypeVar("T")
PIECE = 1 << 18  # bytes of HTTP taken at once: what a broken transfer loses at most
RANGE = 1 << 20  # bytes asked of other schemes at once
LONGEST_PAUSE = 30.0


class Transient(Exception):  # noqa: N818  (never leaves this module)
    """A failure that may pass."""

    def __init__(self, reason: Reason, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.reason, self.pause = reason, pause


class System(Protocol):
    """One way to the bytes of a URL."""

    def stat(self, url: str) -> Stat:
        """Return size and version of a URL."""

    def stream(self, url: str, start: int, end: int | None) -> Iterator[bytes]:
        """Yield the bytes start to end - 1 as they come, to the end of the file when `end` is None."""


class Http:
    """http:// and https://. Content that changes between two requests for one URL is refused."""

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self._versions: dict[str, str] = {}

    def stat(self, url: str) -> Stat:
        """Return Content-Length and ETag (or Last-Modified) of a URL.

        Raises:
            Transient, ReadError: it cannot be had.
        """
        with self._open(url, {"Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = total if answer.status == 206 else answer.headers.get("Content-Length", "")
            return Stat(int(size) if size.isdigit() else -1, _version(answer.headers))

    def stream(self, url: str, start: int, end: int | None) -> Iterator[bytes]:
        """Yield bytes of a URL; a server that knows no ranges sends all, of which what is not wanted is dropped.

        Raises:
            Transient, ReadError: it breaks off, or cannot be had.
        """
        last = "" if end is None else str(end - 1)
        with self._open(url, {"Range": f"bytes={start}-{last}"}) as answer:
            self._require_same(url, answer.headers)
            dropped = 0 if answer.status == 206 else start
            while dropped > 0:
                piece = self._take(answer, min(PIECE, dropped))
                dropped -= len(piece)
            left = None if end is None else end - start
            while left is None or left > 0:
                piece = self._take(answer, PIECE if left is None else min(PIECE, left), may_end=left is None)
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece

    def _open(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, headers={**headers, "Accept-Encoding": "identity"})  # noqa: S310
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self.stall_seconds)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(url, error.code, error.headers) from None
        except TimeoutError:
            raise Transient("stalled", f"no answer for {self.stall_seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise Transient("stalled", f"no answer for {self.stall_seconds:g} s") from None
            raise Transient("failed", str(reason) or type(error).__name__) from None
        return answer

    def _take(self, answer: http.client.HTTPResponse, count: int, may_end: bool = False) -> bytes:
        try:
            piece = answer.read1(count)
        except TimeoutError:
            raise Transient("stalled", f"no byte for {self.stall_seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise Transient("failed", f"the transfer broke off: {error or type(error).__name__}") from None
        if not piece and (not may_end or answer.length):  # `length`: what the server still owes
            raise Transient("short", "the transfer ended early")
        return piece

    def _require_same(self, url: str, headers: Any) -> None:
        version = _version(headers)
        if version and self._versions.setdefault(url, version) != version:
            rule = "the shard was replaced while it was read; begin again with what is there now"
            raise ReadError("changed", f"{url}: its {version} was {self._versions[url]}: {rule}")


class Fsspec:
    """Any other scheme that fsspec opens; each small range has `stall_seconds` to come."""

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds

    def stat(self, url: str) -> Stat:
        """Return size and version of a URL.

        Raises:
            Transient, ReadError: it cannot be had.
        """
        info = self._call(url, lambda system, path: system.info(path))
        names = ("ETag", "etag", "md5Hash", "checksum", "LastModified", "last_modified", "mtime", "created")
        version = next((str(info[name]) for name in names if info.get(name)), "")
        return Stat(-1 if info.get("size") is None else int(info["size"]), version)

    def stream(self, url: str, start: int, end: int | None) -> Iterator[bytes]:
        """Yield bytes of a URL.

        Raises:
            Transient, ReadError: it breaks off, or cannot be had.
        """
        stop = self.stat(url).size if end is None else end
        while start < stop:
            last = min(start + RANGE, stop)
            piece = self._call(url, lambda system, path, a=start, b=last: system.cat_file(path, start=a, end=b))  # type: ignore[misc]
            if len(piece) != last - start:
                raise Transient("short", f"{len(piece)} of {last - start} bytes came")
            yield piece
            start = last

    def _call(self, url: str, work: Callable[[Any, str], T]) -> T:
        try:
            return within(self.stall_seconds, lambda: work(*fsspec.core.url_to_fs(url)))
        except (ImportError, ValueError) as error:
            raise ReadError("refused", f"{url}: cannot be opened: {_first_line(error)}") from error
        except FileNotFoundError:
            raise ReadError("missing", f"{url}: does not exist") from None
        except PermissionError as error:
            raise ReadError("refused", f"{url}: access is refused: {_first_line(error)}") from error
        except TimeoutError:
            raise Transient("stalled", f"no answer for {self.stall_seconds:g} s") from None
        except Exception as error:  # every backend has errors of its own
            raise Transient("failed", _first_line(error)) from error


class Transfers:
    """Whole transfers over any scheme, with as many tries as the options allow."""

    def __init__(self, options: StorageOptions, watch: Watch = unwatched) -> None:
        self.options, self.watch = options, watch
        self._systems: dict[bool, System] = {True: Http(options.stall_seconds), False: Fsspec(options.stall_seconds)}
        self._random = random.Random()  # noqa: S311  (spreads tries in time; nothing about data depends on it)

    def stat(self, url: str) -> Stat:
        """Return size and version of a URL.

        Raises:
            ReadError: it cannot be had.
        """
        return self._tried(url, "stat", lambda: self._system(url).stat(url), lambda: 0)

    def copy(self, url: str, start: int, end: int | None, take: Callable[[bytes], Any]) -> None:
        """Give the bytes start to end - 1 to `take`, piece by piece, going on where a try broke off.

        Raises:
            ReadError: they cannot be had.
        """
        done = 0

        def once() -> None:
            nonlocal done
            if end is not None and start + done >= end:
                return
            for piece in self._system(url).stream(url, start + done, end):
                self.watch("fetch", url)
                take(piece)
                done += len(piece)

        self._tried(url, "fetch", once, lambda: done)

    def _system(self, url: str) -> System:
        return self._systems[url.lower().startswith(("http://", "https://"))]

    def _tried(self, url: str, stage: str, once: Callable[[], T], done: Callable[[], int]) -> T:
        began, failures, before = time.monotonic(), 0, 0
        while True:
            self.watch(stage, url)
            try:
                return once()
            except Transient as error:
                failures = 1 if done() > before else failures + 1  # a try that brought something begins a new count
                before = done()
                if failures > self.options.retries:
                    seconds = time.monotonic() - began
                    tries = f"{failures} tries in {seconds:.0f} s"
                    raise ReadError(error.reason, f"{url}: {stage} failed: {error} ({tries})") from error
                time.sleep(max(error.pause, self._pause(failures)))
            finally:
                self.watch("", "")

    def _pause(self, failures: int) -> float:
        longest = min(self.options.backoff_seconds * 2 ** (failures - 1), LONGEST_PAUSE)
        return float(longest * self._random.uniform(0.5, 1.0))


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what `work` returns in time; its thread is left behind when it does not.

    Raises:
        TimeoutError: it took longer.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except Exception as error:  # noqa: BLE001  (handed over to whoever waits)
            answers.put((None, error))

    threading.Thread(target=run, daemon=True, name="data call").start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _refusal(url: str, status: int, headers: Any) -> Exception:
    if status in (404, 410):
        return ReadError("missing", f"{url}: does not exist (status {status})")
    if status == 416:
        return ReadError("changed", f"{url}: is shorter than its index says; run contrastive data index again")
    if status in (408, 425, 429) or status >= 500:
        return Transient("failed", f"status {status}", _retry_after(headers))
    return ReadError("refused", f"{url}: access is refused (status {status})")


def _retry_after(headers: Any) -> float:
    said = (headers.get("Retry-After") or "").strip()
    if said.isdigit():
        return min(float(said), LONGEST_PAUSE)
    parts = email.utils.parsedate_tz(said)
    return 0.0 if parts is None else max(0.0, min(email.utils.mktime_tz(parts) - time.time(), LONGEST_PAUSE))


def _version(headers: Any) -> str:
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
