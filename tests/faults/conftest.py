"""Runs for the fault tests, and what they come to when nothing happens to them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import toys
from tests.faults.runs import Run


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 40 samples, for all runs."""
    return toys.write_shards(tmp_path_factory.mktemp("pairs") / "shards", 40, shards=3)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Callable[..., Run]:
    """Return the run of a world size and settings that nothing has happened to; each is trained once."""
    known: dict[tuple[int, tuple[str, ...]], Run] = {}

    def find(world_size: int = 2, *settings: str) -> Run:
        if (world_size, settings) not in known:
            run = Run(tmp_path_factory.mktemp("undisturbed"), pairs, world_size, settings)
            run.finish()
            known[world_size, settings] = run
        return known[world_size, settings]

    return find


@pytest.fixture
def new_run(tmp_path: Path, pairs: Path) -> Iterator[Callable[..., Run]]:
    """Return a new run of so many ranks with these settings; none of its processes outlives the test."""
    runs: list[Run] = []

    def make(world_size: int = 2, *settings: str, shards: Path = pairs) -> Run:
        runs.append(Run(tmp_path / f"run{len(runs)}", shards, world_size, settings))
        return runs[-1]

    yield make
    for run in runs:
        run.end()
