import os
import signal
from pathlib import Path

import pytest
import torch

from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.recipes.looking import SPAN, over_samples, spread
from tests import toys
from tests.data.toys import reader, settings


def key(reader: Reader, number: int) -> str:
    return reader.pool.find(number).row.key


def kill(reader: Reader, number: int) -> str:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return key(reader, number)


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_every_sample_is_looked_at_once_and_in_order(tmp_path: Path, processes: int):
    opened = reader(settings(toys.write_shards(tmp_path, 2 * SPAN + 5, 3)))
    told: list[tuple[int, int]] = []
    found = list(
        over_samples(
            opened, range(2 * SPAN + 5), key, processes=processes, progress=lambda done, of: told.append((done, of))
        )
    )
    assert found == [f"s{number:05d}" for number in range(2 * SPAN + 5)]
    assert told == [(SPAN, 517), (2 * SPAN, 517), (517, 517)]


def test_some_samples_are_looked_at_in_the_order_asked_for(tmp_path: Path):
    opened = reader(settings(toys.write_shards(tmp_path, 30)))
    assert list(over_samples(opened, [3, 29, 11], key)) == ["s00003", "s00029", "s00011"]
    assert list(over_samples(opened, [], key)) == []


def test_looking_draws_nothing_from_the_global_generator(tmp_path: Path):
    opened, before = reader(settings(toys.write_shards(tmp_path, 4))), torch.get_rng_state()
    assert len(list(over_samples(opened, range(4), key, processes=1))) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_a_process_that_is_killed_is_one_line(tmp_path: Path):
    opened = reader(settings(toys.write_shards(tmp_path, 20)))
    with pytest.raises(DataError, match=r"^after 0 of 20 samples: .*exited unexpectedly") as caught:
        list(over_samples(opened, range(20), kill, processes=1))
    assert "\n" not in str(caught.value)


def test_a_spread_takes_one_of_each_equal_part():
    assert spread(10, None) == spread(10, 10) == spread(10, 99) == list(range(10))
    found = spread(1003, 17)
    assert len(found) == 17
    edges = [1003 * part // 17 for part in range(18)]
    assert all(low <= number < high for number, low, high in zip(found, edges[:-1], edges[1:], strict=True))
    assert spread(1003, 17) == found
    assert len({number - low for number, low in zip(found, edges[:-1], strict=True)}) > 5
