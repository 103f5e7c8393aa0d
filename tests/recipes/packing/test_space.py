"""A full disk is one line, whichever process meets it."""

import errno
import pickle
from pathlib import Path

import pytest

from contrastive.recipes.packing.space import DiskFullError, missing_room, size, told_when_full


def test_a_full_disk_is_told_with_the_room_there_is(tmp_path: Path):
    with pytest.raises(DiskFullError) as caught, told_when_full(f"{tmp_path}/shards/a.tar"):
        raise OSError(errno.ENOSPC, "No space left on device")
    said = str(pickle.loads(pickle.dumps(caught.value)))
    assert said.startswith(f"{tmp_path}/shards/a.tar cannot be written: No space left on device (")
    assert "B are free); make room, and run the command again: it goes on where it stopped" in said


def test_other_errors_are_left_as_they_are():
    with pytest.raises(PermissionError), told_when_full("x"):
        raise PermissionError(errno.EACCES, "no")


def test_what_is_needed_is_judged_by_what_is_written(tmp_path: Path):
    needed, free = missing_room(tmp_path, samples=100, packed=20, written=1000)
    assert needed == 4000
    assert free > 0
    assert missing_room(tmp_path, 100, 0, 0)[0] == 0


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3.2e15, "3,200.0 TB")]
)
def test_bytes_are_said_as_people_read_them(count: float, said: str):
    assert size(int(count)) == said
