"""Items that a thread produces before they are asked for."""

import queue
import threading
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Generator[T], depth: int) -> Generator[T]:
    """Yield `items` as a thread produces them, at most `depth` ahead; its error is raised here, in its place."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    ended = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if not _put(ready, ("item", item), ended):
                    break
            _put(ready, ("end", None), ended)
        except BaseException as error:  # noqa: BLE001  (whatever it is, the consumer must not wait for ever)
            _put(ready, ("error", error), ended)
        finally:
            items.close()  # before the thread ends: the processes that it has started would be killed with it

    threading.Thread(target=produce, daemon=True, name="data ahead").start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        ended.set()


def _put(ready: "queue.Queue[Any]", value: Any, ended: threading.Event) -> bool:
    while not ended.is_set():
        try:
            ready.put(value, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
