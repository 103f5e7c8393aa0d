"""Ranges of URLs in memory: fetched ahead, in chunks, once while there is room for them."""

import queue
import threading
from collections import OrderedDict

from contrastive.data.access import ReadError, StorageOptions
from contrastive.data.remote import Transfers

FETCHERS = 4


class Chunks:
    """Ranges of URLs in chunks, fetched once while there is room for them; the least recently used go first."""

    def __init__(self, transfers: Transfers, options: StorageOptions) -> None:
        self.transfers, self.size = transfers, options.chunk_bytes
        self.room = max(2, options.memory_bytes // options.chunk_bytes)
        self.fetched_bytes = self.served_bytes = 0
        self._chunks: OrderedDict[tuple[str, int], _Chunk] = OrderedDict()
        self._lock = threading.Lock()
        self._wanted: queue.SimpleQueue[_Chunk] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def read(self, url: str, offset: int, size: int, total: int) -> bytes:
        """Return bytes of a URL that has `total`.

        Raises:
            ReadError: they cannot be had.
        """
        content = bytearray()
        for number in range(offset // self.size, (offset + max(size, 1) - 1) // self.size + 1):
            chunk, is_new = self._chunk(url, number, total)
            if is_new:
                self._fetch(chunk)
            while not chunk.ready.wait(1.0):
                self.transfers.watch("fetch", url)
            if chunk.error is not None:
                with self._lock:
                    self._chunks.pop((url, number), None)  # the next reader may have more luck
                raise chunk.error
            low, high = max(offset - chunk.start, 0), min(offset + size - chunk.start, len(chunk.content))
            content += memoryview(chunk.content)[low:high]
        self.served_bytes += size
        return bytes(content)

    def prefetch(self, url: str, offset: int, size: int, total: int) -> None:
        """Begin to fetch bytes that will be read soon, while there is room."""
        for number in range(offset // self.size, (offset + max(size, 1) - 1) // self.size + 1):
            with self._lock:
                if len(self._chunks) >= self.room and (url, number) not in self._chunks:
                    return
            chunk, is_new = self._chunk(url, number, total)
            if is_new:
                self._begin()
                self._wanted.put(chunk)

    def _chunk(self, url: str, number: int, total: int) -> "tuple[_Chunk, bool]":
        with self._lock:
            known = self._chunks.get((url, number))
            if known is not None:
                self._chunks.move_to_end((url, number))
                return known, False
            while len(self._chunks) >= self.room:
                self._chunks.popitem(last=False)
            start = number * self.size
            chunk = self._chunks[url, number] = _Chunk(url, start, min(start + self.size, total))
            return chunk, True

    def _fetch(self, chunk: "_Chunk") -> None:
        content = bytearray()
        try:
            self.transfers.copy(chunk.url, chunk.start, chunk.end, content.extend)
            chunk.content = bytes(content)
            self.fetched_bytes += len(content)
        except ReadError as error:
            chunk.error = error
        finally:
            chunk.ready.set()

    def _begin(self) -> None:
        while len(self._threads) < FETCHERS:
            thread = threading.Thread(target=self._work, daemon=True, name="data fetch")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            self._fetch(self._wanted.get())


class _Chunk:
    def __init__(self, url: str, start: int, end: int) -> None:
        self.url, self.start, self.end = url, start, end
        self.content = b""
        self.error: ReadError | None = None
        self.ready = threading.Event()
