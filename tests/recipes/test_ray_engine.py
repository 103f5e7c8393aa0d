import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.cli import main
from contrastive.errors import DataError
from contrastive.hashing import mix
from contrastive.recipes import ray_engine
from contrastive.recipes.engine import AHEAD, Local
from contrastive.recipes.ray_engine import Ray
from tests.recipes import engine_tasks
from tests.toys import encode

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


# Ray alone. `ray.remote` takes no built-in function.
BARE = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False)
assert ray.get(ray.remote(lambda: 3).remote()) == 3
"""


def why_not() -> str:
    """Return why no Ray starts on this machine, whoever starts it; nothing where it does."""
    try:
        done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        return "no answer in 100 s"
    return done.stderr[-300:] if done.returncode else ""


def own_handler(*_: object) -> None:
    """What a program does when it is asked to end."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """Return the engine of a Ray of two processors, which starts once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps the password of its doors there
        patch.setenv("RAY_ADDRESS", "local")
        if reason := why_not():
            pytest.skip(f"Ray alone does not start on this machine: {reason}")
        before = signal.signal(signal.SIGTERM, own_handler)
        with Ray(2) as started:
            folder = Path(started._folder.name)
            assert folder.is_dir()
            yield started
        assert not ray.is_initialized()
        assert not folder.exists()
        assert signal.signal(signal.SIGTERM, before) is own_handler


def test_results_come_in_the_order_of_the_tasks(engine: Ray):
    assert engine.processes == 2
    found = list(engine.map(engine_tasks.later, range(20)))
    assert [square for square, _ in found] == [number * number for number in range(20)]
    assert os.getpid() not in {process for _, process in found}


def test_ray_and_the_processes_of_this_machine_give_the_same(engine: Ray):
    with Local(2) as local:
        assert list(engine.map(partial(mix, 7), range(9))) == list(local.map(partial(mix, 7), range(9)))


def test_few_tasks_are_held_at_a_time(engine: Ray):
    taken = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = engine.map(abs, endless())
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(taken) <= 5 + 2 * AHEAD


def test_what_a_function_holds_stays_in_its_process(engine: Ray):
    last = dict(engine.map(engine_tasks.Counting(), range(12)))
    assert sum(last.values()) == 12
    assert sum(dict(engine.map(engine_tasks.Counting(), range(4))).values()) == 4  # another function, held anew


def test_what_a_task_raises_is_raised_as_it_was(engine: Ray):
    results = engine.map(engine_tasks.refuse, range(20))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError) as caught:
        next(results)
    assert (type(caught.value), str(caught.value)) == (DataError, "shard 3: is broken")
    with pytest.raises(ZeroDivisionError):
        list(engine.map(engine_tasks.fail, range(20)))


def test_a_task_whose_process_is_killed_is_done_again(engine: Ray, tmp_path: Path):
    assert list(engine.map(engine_tasks.DieOnce(tmp_path / "died"), range(8))) == list(range(8))
    assert (tmp_path / "died").exists()


def test_a_task_that_always_kills_its_process_is_said_in_one_line(engine: Ray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_engine, "RETRIES", 0)
    with pytest.raises(DataError) as caught:
        list(engine.map(engine_tasks.die, range(8)))
    said = str(caught.value)
    assert said.startswith("a process that did part of the work is gone: WorkerCrashedError after 1 tries: ")
    assert said.endswith("; run the command again")
    assert "\n" not in said


def test_tasks_run_in_the_folder_of_the_command(engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here.txt").write_text("found")
    monkeypatch.chdir(tmp_path)
    assert list(engine.map(engine_tasks.read, ["here.txt"])) == ["found"]


def test_a_ray_that_runs_already_is_used_and_left_alone(engine: Ray):
    with Ray(None) as joined:
        assert joined.processes == 2
        assert list(joined.map(abs, [-1])) == [1]
    with Ray(1) as joined:
        assert joined.processes == 1
    assert ray.is_initialized()
    assert logging.getLogger("ray").level == logging.ERROR


def test_a_cluster_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(DataError, match=r"^RAY_ADDRESS=127.0.0.1:1: no Ray can be joined there .*unset RAY_ADDRESS"):
        Ray(2)


def test_a_missing_ray_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"^--engine ray: not installed; pip install 'contrastive-pretrain\[ray\]'$"):
        Ray(2)


def write_table(folder: Path) -> Path:
    """Write a table of 24 images, of which each third is a copy of less quality, one is small and one broken."""
    folder.mkdir()
    lines = ["image,caption"]
    for number in range(24):
        small = np.random.default_rng(number // 3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (20, 16) if number == 20 else (96, 72)
        pixels = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
        content = encode(pixels, "JPEG", quality=40 if number % 3 == 2 else 95)
        (folder / f"{number}.jpg").write_bytes(content[:200] if number == 5 else content)
        lines.append(f"{number}.jpg,picture {number} of some thing")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name, but for those that tell how and when they came to be."""
    told = ("report.json", "report.html", "manifest.json")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in told]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_packing_filtering_and_deduplicating_give_the_same_bytes_as_on_this_machine_alone(engine: Ray, tmp_path: Path):
    table, found = write_table(tmp_path / "source"), {}
    for name in ("ray", "local"):
        how = ["--engine", name, "--processes", "2"]
        out = tmp_path / name
        packing = ["--shard-size", "8", "--size", "64", "--format", "jpg", *how]
        assert main(["data", "pack", str(table), "--out", str(out / "packed"), *packing]) == 0
        shards = str(tmp_path / "ray" / "packed")
        assert main(["data", "filter", shards, "--min-side", "32", "--out", str(out / "filtered"), *how]) == 0
        assert main(["data", "dedup", shards, "--out", str(out / "deduplicated"), *how]) == 0
        found[name] = contents(out)
    assert found["ray"] == found["local"]
    assert sum(name.endswith(".tar") for name in found["ray"]) == 3
    assert b"truncated" in found["ray"]["packed/rejected.jsonl"]
    assert list(engine.map(engine_tasks.threads, range(4))) == [1] * 4  # torch is there already
