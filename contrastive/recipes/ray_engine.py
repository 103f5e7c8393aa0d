"""The work of a recipe done by Ray: on a cluster that exists, or else on one that this machine starts for itself.

On a cluster every machine needs this package, and must find sources and shards where this one does: on a disk that they
share, at the same path, or at a URL. Tasks run in the folder that the command was started in, where it exists, so that
relative paths mean the same. A task may be done twice, when its process was lost: it writes to a temporary name and
renames, or only returns.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from contrastive.errors import DataError
from contrastive.recipes.engine import AHEAD, one_thread

T = TypeVar("T")
U = TypeVar("U")
RETRIES = 2  # of a task whose process or machine was lost
LONGEST_FOLDER = 28  # letters of the folder for temporary ones: below it, Ray has sockets, whose names have 107 at most
SECONDS_TO_CANCEL = 30.0
SECONDS_TO_ANSWER = 5.0  # Ray itself would try for minutes
FAILURES = (OSError, RuntimeError, ValueError)  # what ray.init raises


class Ray:
    """Tasks of Ray, in processes of one processor each; a context manager, which ends the Ray that it started.

    It joins the Ray that this process uses already, the cluster of RAY_ADDRESS, or the one that `ray start` started
    here, in this order, and leaves it running. Where there is none it starts one. `processes` is the most tasks at
    once; None is as many as there are processors.

    Raises:
        DataError: Ray is not installed or does not start, or none answers at RAY_ADDRESS.
    """

    def __init__(self, processes: int | None) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report home; read when it starts
        try:
            import ray  # an extra
        except ImportError as error:
            raise DataError("--engine ray: not installed; pip install 'contrastive-pretrain[ray]'") from error
        self._ray: Any = ray
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._is_ours = not ray.is_initialized()
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        if self._is_ours and not self._join():
            self._start(processes or os.cpu_count() or 1)
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._processes = min(processes or processors, processors)

    @property
    def processes(self) -> int:
        """How many tasks run at once."""
        return self._processes

    def map(self, function: Callable[[T], U], tasks: Iterable[T]) -> Iterator[U]:
        """Yield function(task) of every task, in order; see `Engine`."""
        # In a list, it stays a reference, so that a process reads it once and not for every task.
        held = [self._ray.put(function)]
        call = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        waiting: deque[Any] = deque()
        running: list[Any] = []
        try:
            for task in tasks:
                if len(running) >= self._processes:
                    _, running = self._ray.wait(running, num_returns=len(running) - self._processes + 1)
                waiting.append(call.remote(held, os.getcwd(), task))
                running.append(waiting[-1])
                if len(waiting) >= AHEAD * self._processes:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            self._cancel(waiting)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error  # the message is that of the task, the trace that of its process
        except self._ray.exceptions.RayError as error:
            told = f"{type(error).__name__} after {RETRIES + 1} tries: {_first(error)}"
            raise DataError(f"a process that did part of the work is gone: {told}; run the command again") from error

    def _cancel(self, waiting: Iterable[Any]) -> None:
        """End what nobody waits for any more, and wait for that: its folders may be removed next."""
        left = list(waiting)
        for reference in left:
            self._ray.cancel(reference, force=True)  # an interrupted import would leave its process unfit for more
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=SECONDS_TO_CANCEL)

    def _join(self) -> bool:
        """Join a cluster that runs already, and return whether there is one."""
        address = os.environ.get("RAY_ADDRESS") or "auto"
        if address == "local":
            return False
        try:
            _knock(address)
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except FAILURES as error:
            if address == "auto":
                return False
            rule = "start it, or unset RAY_ADDRESS to use this machine alone"
            raise DataError(f"RAY_ADDRESS={address}: no Ray can be joined there ({_first(error)}); {rule}") from error
        return True

    def _start(self, processes: int) -> None:
        usual = tempfile.gettempdir()
        short = usual if len(usual) <= LONGEST_FOLDER else "/tmp"  # noqa: S108  (mkdtemp below it)
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True)
        try:
            self._ray.init(
                address="local",
                num_cpus=processes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=self._folder.name,
                _system_config={"task_oom_retries": RETRIES},  # it would try for ever
            )
        except FAILURES as error:
            raise DataError(f"--engine ray: it does not start here ({_first(error)}); use --engine local") from error

    def __enter__(self) -> "Ray":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_ours:
            self._ray.shutdown()  # of a cluster: leaves it
            # It leaves its own handler behind, which processes that are forked later would have too.
            if self._on_sigterm is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._folder is not None:
            self._folder.cleanup()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT or ray://HOST:PORT; of other addresses Ray knows more."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Held:
    """What a worker process read to call, and which that was."""

    reference: Any = None
    function: Callable[..., Any]


def _call(held: list[Any], folder: str, task: Any) -> Any:
    if _Held.reference != held[0]:
        import ray  # an extra

        one_thread()
        _Held.function, _Held.reference = ray.get(held[0]), held[0]
        if Path(folder).is_dir():
            os.chdir(folder)
    return _Held.function(task)
