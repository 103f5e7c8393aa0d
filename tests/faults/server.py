"""A server on this machine that misbehaves as it is told, and remembers what it was asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What one answer does: `status` instead of content, or after `after` bytes of it `stall` or `cut`."""

    status: int = 200
    after: int | None = None
    stall: float = 0.0
    cut: bool = False
    ignores_range: bool = False
    etag: str | None = None
    retry_after: str | None = None
    content: bytes | None = None


@dataclass
class Site:
    """Files by path, faults of the next answers by path (then they end), and the ranges asked for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def starts(self, path: str) -> list[int]:
        """Return where the requests for a path began, but for those that only ask for its size."""
        return [start for name, start, end in self.asked if name == path and (start, end) != (0, 0)]


@contextmanager
def site() -> Iterator[Site]:
    """Serve an empty site; its port is free again when the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.site = Site(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.site  # type: ignore[attr-defined]
    finally:
        server.site.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        start, end = self._range()
        site.asked.append((path, start, end))
        waiting = site.faults.get(path, [])
        fault = waiting.pop(0) if waiting else site.always.get(path, Fault())
        content = fault.content if fault.content is not None else site.files.get(path)
        if content is None or fault.status != 200:
            self._refuse(404 if content is None else fault.status, fault)
            return
        last = len(content) if end is None else min(end + 1, len(content))
        is_part = "Range" in self.headers and not fault.ignores_range
        if is_part and start >= len(content):
            self._refuse(416, fault)
            return
        body = content[start:last] if is_part else content
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{last - 1}/{len(content)}")
        self.send_header("ETag", fault.etag or '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send(body, fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        if fault.after is None or len(body) <= fault.after:
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.after])
        self.wfile.flush()
        if fault.stall:
            self.server.site.ended.wait(fault.stall)  # type: ignore[attr-defined]
        if fault.cut:
            self.close_connection = True
            self.connection.close()
            return
        try:
            self.wfile.write(body[fault.after :])
        except OSError:
            self.close_connection = True

    def _range(self) -> tuple[int, int | None]:
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(start), int(end) if end else None

    def _refuse(self, status: int, fault: Fault) -> None:
        self.send_response(status)
        if fault.retry_after is not None:
            self.send_header("Retry-After", fault.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


def until(condition, seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
