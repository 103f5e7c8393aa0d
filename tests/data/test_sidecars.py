"""Sidecars: where they go, who writes them, and when they are read again."""

import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from contrastive.data import sidecars as module
from contrastive.data.sidecars import Reading, Sidecars
from contrastive.data.storage import Storage, cache_home
from contrastive.errors import DataError
from tests import toys


def sidecars(folder: Path, **options: Any) -> Sidecars:
    return Sidecars(str(folder), [str(path) for path in sorted(folder.glob("*.tar"))], Storage(), Reading(**options))


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every shard that is read from now on is added."""
    told, real = list[str](), module.read_shards

    def told_of(storage: Any, tasks: Any, *rest: Any) -> Any:
        told.extend(Path(location).name for location, _ in tasks)
        return real(storage, tasks, *rest)

    monkeypatch.setattr(module, "read_shards", told_of)
    return told


def test_shards_are_read_once_and_again_when_they_change(shards: Path, monkeypatch: pytest.MonkeyPatch):
    told = reads(monkeypatch)
    first = sidecars(shards).entries()
    assert told == ["00000.tar", "00001.tar", "00002.tar"]
    assert sidecars(shards).entries() == first
    assert len(told) == 3
    os.utime(shards / "00001.tar", ns=(1, 1))
    assert sidecars(shards).entries()["00001.tar"].digest == first["00001.tar"].digest
    assert told[3:] == ["00001.tar"]
    toys.write_tar(shards / "00002.tar", toys.members(99))
    assert sidecars(shards).entries()["00002.tar"].rows == 1
    assert told[4:] == ["00002.tar"]
    sidecars(shards, refresh=True).entries()
    assert len(told) == 8


@pytest.mark.parametrize("lost", ["00001.tar.idx.npy", "manifest.json"])
def test_a_lost_sidecar_is_made_again(shards: Path, lost: str):
    first = sidecars(shards).entries()
    (shards / lost).unlink()
    assert sidecars(shards).entries() == first
    assert (shards / lost).exists()


@pytest.mark.parametrize("cut", [0, 40])
def test_a_cut_sidecar_is_made_again(shards: Path, cut: int):
    first = sidecars(shards).entries()
    for name in ("00000.tar.idx.npy", "manifest.json"):
        path = shards / name
        path.write_bytes(path.read_bytes()[:cut])
        assert sidecars(shards).entries() == first, name


def test_a_manifest_of_somebody_else_is_left_alone(shards: Path):
    (shards / "manifest.json").write_text('{"recipe": "mine"}')
    found = sidecars(shards)
    assert len(found.entries()) == 3
    assert found.home.is_relative_to(cache_home())
    assert json.loads((shards / "manifest.json").read_text()) == {"recipe": "mine"}
    assert not list(shards.glob("*.npy"))


def test_a_directory_that_cannot_be_written_has_its_sidecars_in_the_cache(
    shards: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.access
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path) != shards and real(path, mode))
    found = sidecars(shards)
    first = found.entries()
    assert found.home.is_relative_to(cache_home())
    assert not list(shards.glob("*.npy"))
    told = reads(monkeypatch)
    assert sidecars(shards).entries() == first
    assert told == []


def test_without_any_place_to_write_the_remedy_is_said(shards: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = shards.parent / "blocked"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(blocked))
    real = os.access
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path) != shards and real(path, mode))
    with pytest.raises(DataError, match="name a folder that can be written with CONTRASTIVE_CACHE"):
        sidecars(shards).entries()


def test_sidecars_move_with_their_shards(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = sidecars(shards).entries()
    shutil.copytree(shards, tmp_path / "copy", copy_function=shutil.copy2)
    told = reads(monkeypatch)
    assert sidecars(tmp_path / "copy").entries() == first
    assert told == []


def _index(folder: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    answers.put({name: entry.digest for name, entry in sidecars(folder).entries().items()})


def test_processes_that_start_together_index_alike(shards: Path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_index, args=(shards, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(5)
    assert all(one == found[0] for one in found)
    assert len(found[0]) == 3
    assert not [path for path in shards.iterdir() if path.name.startswith(".")]


def test_a_refresh_forgets_shards_that_are_gone(shards: Path):
    sidecars(shards).entries()
    (shards / "00001.tar").unlink()
    sidecars(shards, refresh=True).entries()
    assert set(json.loads((shards / "manifest.json").read_text())["shards"]) == {"00000.tar", "00002.tar"}
    assert not (shards / "00001.tar.idx.npy").exists()


def test_quarantined_rows_stay_out_until_the_shard_changes(shards: Path, caplog: pytest.LogCaptureFixture):
    found = sidecars(shards)
    entries = found.skip(found.entries(), {"00000.tar": {1, 3}})
    assert entries["00000.tar"].skip == (1, 3)
    assert sum(entries["00000.tar"].patterns.values()) == entries["00000.tar"].rows - 2
    assert sidecars(shards, refresh=True).entries()["00000.tar"].skip == (1, 3)
    assert sidecars(shards, refresh=True, forget=True).entries()["00000.tar"].skip == ()
    found.skip(found.entries(), {"00000.tar": {1, 3}})
    toys.write_tar(shards / "00000.tar", toys.members(50))
    with caplog.at_level(logging.WARNING, "contrastive"):
        assert sidecars(shards).entries()["00000.tar"].skip == ()
    assert "changed; its 2 quarantined rows count again" in caplog.text


def test_sizes_json_keeps_what_others_wrote(shards: Path):
    (shards / "sizes.json").write_text('{"other.tar": 7, "00000.tar": 1}')
    found = sidecars(shards)
    found.write_sizes({name: entry.rows for name, entry in found.entries().items()})
    sizes = json.loads((shards / "sizes.json").read_text())
    assert sizes["other.tar"] == 7
    assert sizes["00000.tar"] == 14
    assert list(sizes) == sorted(sizes)
