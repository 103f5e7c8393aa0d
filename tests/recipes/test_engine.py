import os
from collections.abc import Iterator

import pytest
import torch

from contrastive.errors import DataError
from contrastive.recipes.engine import AHEAD, Local
from tests.recipes import engine_tasks


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(processes: int):
    with Local(processes) as engine:
        found = list(engine.map(engine_tasks.later, range(20)))
    assert [square for square, _ in found] == [number * number for number in range(20)]
    assert (len({process for _, process in found} - {os.getpid()}) > 0) == (processes > 1)


def test_one_process_is_this_one():
    with Local(1) as engine:
        assert {process for _, process in engine.map(engine_tasks.later, range(4))} == {os.getpid()}


def test_without_a_number_there_is_a_process_for_each_core():
    assert Local(None).processes == os.cpu_count()


def test_few_tasks_are_held_at_a_time():
    taken = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    with Local(2) as engine:
        results = engine.map(abs, endless())
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        results.close()
    assert len(taken) <= 5 + 2 * AHEAD


def test_what_a_function_holds_stays_in_its_process():
    with Local(2) as engine:
        found = list(engine.map(engine_tasks.Counting(), range(12)))
    last = dict(found)  # the last count of each process
    assert sum(last.values()) == 12


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_task_raises_ends_the_work_after_the_results_before_it(processes: int):
    with Local(processes) as engine:
        results = engine.map(engine_tasks.refuse, range(20))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match=r"^shard 3: is broken$"):
            next(results)
        with pytest.raises(ZeroDivisionError):
            list(engine.map(engine_tasks.fail, range(20)))


def test_a_killed_process_is_said_in_one_line():
    with Local(2) as engine, pytest.raises(DataError) as caught:
        list(engine.map(engine_tasks.die, range(20)))
    said = str(caught.value)
    assert said.startswith("a process that did part of the work is gone: process ")
    assert "was ended by signal 9" in said
    assert said.endswith("; run the command again")
    assert "\n" not in said


def test_each_process_works_in_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Local(2) as engine:
            assert list(engine.map(engine_tasks.threads, range(4))) == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
