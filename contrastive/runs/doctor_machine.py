"""What this machine has for a run: memory that processes share, memory of their own, disk."""

import os
import shutil
import threading
from pathlib import Path
from types import TracebackType

import psutil  # type: ignore[import-untyped]

from contrastive.data.loader import SHARED
from contrastive.recipes.doctor import RunFacts
from contrastive.recipes.doctor_pace import Memory

TICK_SECONDS = 0.25
LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
CGROUP = Path("/sys/fs/cgroup")


def memory(run: RunFacts, size: int, slots: int, worker: float | None) -> Memory:
    """Return what the loaders of a run want and what is free; `size` pixels of the input, `worker` bytes of one."""
    share = run.global_batch_size // run.ranks
    return Memory(share * size * size * 3, slots, shared_free(), worker, available_memory())


def shared_free() -> float | None:
    """Return the free bytes of the file system of shared memory; None where there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:  # not Linux
        return None
    return float(found.f_bavail * found.f_frsize)


def available_memory(cgroup: Path = CGROUP) -> float:
    """Return the bytes that new processes may take: of the machine, and of the container this one runs in."""
    found = float(psutil.virtual_memory().available)
    for limit, used in LIMITS:
        try:
            free = int((cgroup / limit).read_text()) - int((cgroup / used).read_text())
        except (OSError, ValueError):  # another version, or "max"
            continue
        found = min(found, max(0.0, float(free)))
    return found


def disk_free(folder: Path) -> tuple[float, str]:
    """Return the free bytes where a folder is or will be, and the part of its path that exists."""
    absolute = folder.absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    return float(shutil.disk_usage(existing).free), str(existing)


class WorkerMemory:
    """Watches, while it is open, how many bytes the children of this process hold each for themselves, at most."""

    def __init__(self) -> None:
        self.most: float | None = None
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "WorkerMemory":
        self._watcher.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._watcher.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while not self._is_over.wait(TICK_SECONDS):
            for child in here.children():
                try:
                    held = float(child.memory_full_info().uss)
                except psutil.Error:  # it ended meanwhile
                    continue
                self.most = max(held, self.most or 0.0)
