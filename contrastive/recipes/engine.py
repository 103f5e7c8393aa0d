"""Where the work of a recipe is done: the processes of this machine, or an existing engine for many machines."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Protocol, TypeVar

from contrastive.errors import DataError
from contrastive.processes import Workers

T = TypeVar("T")
U = TypeVar("U")
AHEAD = 2  # tasks that wait for each process, so that none waits for the next one


class Engine(Protocol):
    """Runs tasks somewhere; a context manager, which ends what it started."""

    @property
    def processes(self) -> int:
        """How many tasks run at once."""
        ...

    def map(self, function: Callable[[T], U], tasks: Iterable[T]) -> Iterator[U]:
        """Yield function(task) of every task, in the order of the tasks, whichever process it ran in.

        Function, tasks and results are pickled; `function` is sent once. Few tasks are held at a time, so `tasks` may
        be endless. A failure ends the work and is raised here.

        Raises:
            DataError: a process was killed, or `function` raised it.
        """
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Local:
    """Processes of this machine, which end with this one; with one process the work is done in this one.

    None is a process for each core.
    """

    def __init__(self, processes: int | None) -> None:
        self._processes = processes or os.cpu_count() or 1

    @property
    def processes(self) -> int:
        """How many tasks run at once."""
        return self._processes

    def map(self, function: Callable[[T], U], tasks: Iterable[T]) -> Iterator[U]:
        """Yield function(task) of every task, in order; see `Engine`."""
        if self._processes == 1:
            yield from map(function, tasks)
            return
        context = Workers()
        pool = ProcessPoolExecutor(self._processes, context, _hold, (function,))
        try:
            yield from _in_order(pool, tasks, AHEAD * self._processes)
        except BrokenProcessPool as error:
            said = _first_death(context)
            raise DataError(f"a process that did part of the work is gone: {said}; run the command again") from error
        finally:
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


def one_thread() -> None:
    """Let torch do the work of this process in one thread: with a process a core, more would stand in each other's way.

    Threads that torch started before this process was forked are not there, and waiting for them would never end.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # where torch is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[T], most: int) -> Iterator[U]:
    waiting: deque[Future[U]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_call, task))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _first_death(context: Workers) -> str:
    """Return what ended the process that went; the pool learns it in another thread, and then ends all others."""
    for _ in range(100):
        if found := context.deaths():
            return found[0]
        time.sleep(0.01)
    return "was there enough memory?"


class _Held:
    """What a worker process was given to call."""

    function: Callable[..., object]


def _hold(function: Callable[..., object]) -> None:
    one_thread()
    _Held.function = function


def _call(task: T) -> U:  # type: ignore[type-var]
    return _Held.function(task)  # type: ignore[return-value]
