import threading
import time
from collections.abc import Generator

import pytest

from contrastive.data.ahead import ahead
from contrastive.errors import DataError
from tests.test_processes import seconds_until


def test_items_stay_in_their_order():
    assert list(ahead((number for number in range(50)), 2)) == list(range(50))


def test_no_more_are_produced_ahead_than_asked_for():
    produced: list[int] = []

    def items() -> Generator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    found = ahead(items(), 2)
    next(found)
    time.sleep(0.3)
    assert len(produced) == 4  # the one that was taken, two that wait, and one that waits for its place
    found.close()


def test_an_error_comes_in_its_place():
    def items() -> Generator[int]:
        yield 1
        raise DataError("broken")

    found = ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(DataError, match="broken"):
        next(found)


def test_a_consumer_that_leaves_ends_the_thread():
    found = ahead((number for number in range(10**9)), 2)
    next(found)
    found.close()
    seconds_until(lambda: all(thread.name != "data ahead" for thread in threading.enumerate()))


@pytest.mark.parametrize("is_left", [False, True])
def test_the_items_are_closed_by_the_thread_that_produced_them(is_left: bool):
    closed_by: list[str] = []

    def items() -> Generator[int]:
        try:
            yield from range(10)
        finally:
            closed_by.append(threading.current_thread().name)

    found = ahead(items(), 2)
    if is_left:
        next(found)
        found.close()
    else:
        list(found)
    seconds_until(lambda: bool(closed_by))
    assert closed_by == ["data ahead"]
