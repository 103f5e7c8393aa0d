"""Reading shards header by header."""

from pathlib import Path

import pytest

from contrastive.data import scanning
from contrastive.data.entries import Entry
from contrastive.data.scanning import read_shards
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from tests import toys
from tests.faults.server import Site


def tasks(places: list[str], home: Path) -> list[tuple[str, Path]]:
    home.mkdir()
    return [(place, home / f"{number}.npy") for number, place in enumerate(places)]


def test_other_processes_find_what_this_one_finds(shards: Path, tmp_path: Path):
    places = [str(path) for path in sorted(shards.glob("*.tar"))]
    alone = list(read_shards(Storage(), tasks(places, tmp_path / "a"), 0))
    several = list(read_shards(Storage(), tasks(places, tmp_path / "b"), 0, processes=2))
    assert alone == several
    assert [entry.rows for entry in alone if isinstance(entry, Entry)] == [14, 13, 13]
    for number in range(3):
        assert (tmp_path / "a" / f"{number}.npy").read_bytes() == (tmp_path / "b" / f"{number}.npy").read_bytes()


def test_shards_of_a_server_are_those_of_the_disk(web: Site, shards: Path, tmp_path: Path):
    paths = sorted(shards.glob("*.tar"))
    web.files.update({f"/{path.name}": path.read_bytes() for path in paths})
    near = list(read_shards(Storage(), tasks([str(path) for path in paths], tmp_path / "a"), 0))
    far = list(read_shards(Storage(), tasks([f"{web.url}/{path.name}" for path in paths], tmp_path / "b"), 0))
    assert [one.digest for one in near if isinstance(one, Entry)] == [
        one.digest for one in far if isinstance(one, Entry)
    ]
    assert len(far) == 3


def test_a_shard_that_cannot_be_read_is_an_answer_in_its_place(shards: Path, tmp_path: Path):
    places = [str(shards / "00000.tar"), str(shards / "none.tar"), str(shards / "00002.tar")]
    first, lost, last = read_shards(Storage(), tasks(places, tmp_path / "a"), 0)
    assert isinstance(first, Entry)
    assert isinstance(last, Entry)
    assert isinstance(lost, DataError)
    assert str(lost).startswith(f"{shards}/none.tar: ")


@pytest.mark.parametrize(("size", "started"), [(scanning.MANY - 1, False), (scanning.MANY, True)])
def test_few_bytes_are_not_worth_other_processes(shards: Path, tmp_path: Path, size: int, started: bool):
    work = tasks([str(path) for path in sorted(shards.glob("*.tar"))], tmp_path / "a")
    executor = scanning._executor(work, size, None)
    assert (executor is not None) == started
    if executor is not None:
        executor.shutdown()


def test_damage_and_odd_things_are_noted(tmp_path: Path):
    path = toys.write_tar(tmp_path / "a.tar", [*toys.members(0), *toys.members(1), *toys.members(1)])
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"s00001.json") + 600])
    (entry,) = read_shards(Storage(), tasks([str(path)], tmp_path / "t"), 0)
    assert isinstance(entry, Entry)
    assert entry.damage
    assert entry.rows == 3
    assert sum(entry.notes.values()) == 1
