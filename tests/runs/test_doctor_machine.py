import multiprocessing
import os
from pathlib import Path

from contrastive.recipes.doctor import RunFacts
from contrastive.runs import doctor_machine as host


def _hold(megabytes: int, ready, over) -> None:
    content = b"x" * (megabytes << 20)
    ready.set()
    over.wait(10)
    assert content


def test_a_batch_in_shared_memory_is_the_share_of_a_rank():
    found = host.memory(RunFacts("s", global_batch_size=64, ranks=4), 32, 5, None)
    assert found.batch == 16 * 32 * 32 * 3
    assert (found.slots, found.worker) == (5, None)


def test_the_memory_of_a_container_counts(tmp_path: Path):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert host.available_memory(tmp_path) == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert host.available_memory(tmp_path) > 1e6


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path):
    free, folder = host.disk_free(tmp_path / "runs" / "a")
    found = os.statvfs(tmp_path)
    assert folder == str(tmp_path)
    assert abs(free - found.f_bavail * found.f_frsize) < 1e9


def test_what_a_child_holds_for_itself_is_seen():
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(64, ready, over))
    child.start()
    try:
        assert ready.wait(10)
        with host.WorkerMemory() as watched:
            for _ in range(100):
                if watched.most is not None:
                    break
                over.wait(0.1)
    finally:
        over.set()
        child.join(10)
    assert watched.most is not None
    assert watched.most > 60 << 20
