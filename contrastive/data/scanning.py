"""Shards are read once, header by header, each into a table; many of them by several processes."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from contrastive.data import index
from contrastive.data.entries import Entry
from contrastive.data.storage import Storage, is_remote
from contrastive.data.tar import scan
from contrastive.errors import DataError

log = logging.getLogger("contrastive")
MANY = 2 << 30  # bytes of local tars that are worth other processes, which take seconds to start
THREADS = 16  # that wait for a network
Task = tuple[str, Path]  # a location, and where its table goes


def read_shards(
    storage: Storage, tasks: Sequence[Task], size: int, processes: int | None = None
) -> Iterator[Entry | DataError]:
    """Yield what each shard holds, or why it cannot be read, and write its table; `size` is their bytes.

    Raises:
        OSError: a table cannot be written.
    """
    work, done = partial(_read_shard, storage), 0
    executor = _executor(tasks, size, processes)
    if executor is not None:
        try:
            for result in executor.map(work, tasks):
                done += 1
                yield result
        except BrokenProcessPool:  # of a script without `if __name__ == "__main__"`, or for want of memory
            log.info("the processes that read shards have ended; going on in this one")
        finally:
            executor.shutdown(cancel_futures=True)
    yield from map(work, tasks[done:])


def _executor(tasks: Sequence[Task], size: int, processes: int | None) -> Executor | None:
    if len(tasks) > 1 and is_remote(tasks[0][0]):
        return ThreadPoolExecutor(THREADS)
    workers = min(len(tasks), (os.cpu_count() or 1) if processes is None else processes)
    if workers <= 1 or (processes is None and size < MANY):
        return None
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _read_shard(storage: Storage, task: Task) -> Entry | DataError:
    location, path = task
    try:
        stat = storage.stat(location)
        with storage.open(location) as file:
            size = file.seek(0, os.SEEK_END)
            members, damage = scan(file, size)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"{location}: cannot be read: {error.strerror}; is its disk well?")
    table, notes = index.build(members)
    index.save(path, table)
    whole = size if stat.size < 0 else stat.size
    entry = Entry(whole, stat.version, len(table), dict(index.patterns(table)), index.digest(table))
    return replace(entry, table=path.stat().st_size, notes=dict(notes), damage=damage)
