"""Processes share the chunks of `contrastive data embed`; whatever ends some of them, the same command goes on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrastive import distributed
from contrastive.errors import Preempted, UserError
from contrastive.recipes.embedding import Layout
from tests import toys
from tests.recipes.embedding_toys import model
from tests.runs.test_embedding import content, run
from tests.toys import on_ranks

ROOT = Path(__file__).parents[2]
CHUNK = 6  # of 40 samples: seven chunks
Write = Callable[[Layout, int, Any], None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write_shards(tmp_path_factory.mktemp("shards"), 40, shards=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model") / "step-1")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: Path, tiny: Path) -> dict[str, bytes]:
    """Return the files that one undisturbed process writes."""
    return content(run(shards, tiny, tmp_path_factory.mktemp("expected") / "out", chunk=CHUNK))


def answer(shards: Path, tiny: Path, out: Path, write: Write | None = None) -> tuple[str, str, bool, list[int]]:
    """Embed on this rank; return how that ended, who says it, and the chunks that were written here."""
    real, own = Layout.write, []

    def written(self: Layout, chunk: int, made: Any) -> None:
        if write is not None:
            write(self, chunk, made)
        real(self, chunk, made)
        own.append(chunk)

    Layout.write = written  # type: ignore[method-assign]  # this process is forked for the test
    try:
        run(shards, tiny, out, chunk=CHUNK)
    except (UserError, Preempted, RuntimeError) as error:
        return type(error).__name__, str(error), getattr(error, "is_everywhere", False), own
    return "", "", False, own


def dies(after: int, number: int = signal.SIGKILL, rank: int | None = None) -> Write:
    """Return what sends a process a signal when it is about to write another than its first `after` chunks."""
    written = 0

    def write(self: Layout, chunk: int, made: Any) -> None:
        nonlocal written
        written += 1
        if written > after and rank in (None, distributed.rank()):
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    return write


def there(out: Path) -> int:
    return len(list((out / "features").glob("*.parquet")))


def killed(shards: Path, tiny: Path, out: Path, after: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=answer, args=(shards, tiny, out, dies(after)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_processes_write_what_one_does(shards: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]):
    answers = on_ranks(answer, 3, shards, tiny, tmp_path / "out")
    assert [how for how, *_ in answers] == [""] * 3
    assert [own for *_, own in answers] == [[0, 3, 6], [1, 4], [2, 5]]
    assert content(tmp_path / "out") == expected


def test_two_processes_go_on_where_one_was_killed_and_killed_again(
    shards: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
):
    out = tmp_path / "out"
    killed(shards, tiny, out, after=1)
    killed(shards, tiny, out, after=3)
    assert there(out) == 4
    answers = on_ranks(answer, 2, shards, tiny, out)
    assert [own for *_, own in answers] == [[4, 6], [5]]
    assert content(out) == expected


def test_one_process_goes_on_where_two_were_killed(
    shards: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
):
    out = tmp_path / "out"
    with pytest.raises(Exception):  # noqa: B017, PT011 - nobody answers
        on_ranks(answer, 2, shards, tiny, out, dies(after=2), timeout=4)
    before = there(out)
    assert 2 <= before <= 4
    assert len(answer_of_one(shards, tiny, out)) == 7 - before
    assert content(out) == expected


def answer_of_one(shards: Path, tiny: Path, out: Path) -> list[int]:
    return on_ranks(answer, 1, shards, tiny, out)[0][3]


def test_a_failure_on_one_rank_ends_all_and_is_said_once(
    shards: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
):
    def full(self: Layout, chunk: int, made: Any) -> None:
        if distributed.rank() == 1:
            raise OSError(28, "No space left on device")
        time.sleep(0.3)  # rank 0 learns of it before it is done

    out = tmp_path / "out"
    for how, message, is_everywhere, _ in on_ranks(answer, 2, shards, tiny, out, full):
        assert how == "DataError"
        assert "out: cannot be written (No space left on device)" in message
        assert is_everywhere
    assert there(out) < 4
    answer_of_one(shards, tiny, out)
    assert content(out) == expected


def test_a_signal_to_one_rank_ends_all(shards: Path, tiny: Path, tmp_path: Path):
    answers = on_ranks(answer, 2, shards, tiny, tmp_path / "out", dies(1, signal.SIGTERM, rank=1))
    assert [(how, message) for how, message, *_ in answers] == [("Preempted", "15")] * 2
    assert there(tmp_path / "out") < 7


def test_ranks_with_other_samples_or_another_model_are_refused(shards: Path, tiny: Path, tmp_path: Path):
    others = [shards, toys.write_shards(tmp_path / "more", 41)]
    models = [tiny, model(tmp_path / "other" / "step-1", seed=1)]

    def work() -> tuple[Any, Any]:
        rank, out = distributed.rank(), tmp_path / "out"
        return answer(others[rank], tiny, out), answer(shards, models[rank], out)

    for samples, weights in on_ranks(work, 2):
        assert "rank 1 sees other samples than rank 0" in samples[1]
        assert "--model: rank 1 has another model than rank 0" in weights[1]
        assert weights[2]
    assert not (tmp_path / "out").exists()


def test_a_mistake_that_rank_0_finds_is_raised_on_all(shards: Path, tiny: Path, tmp_path: Path):
    (tmp_path / "report.json").write_text("{}")
    for how, message, is_everywhere, _ in on_ranks(answer, 2, shards, tiny, tmp_path):
        assert (how, is_everywhere) == ("DataError", True)
        assert "holds the report of an earlier step" in message


def test_who_waits_for_a_rank_that_is_gone_says_so(shards: Path, tiny: Path, tmp_path: Path):
    """Without a launcher that would end it: rank 0 is done, and rank 1 was killed."""

    def work() -> None:
        from contrastive.runs import embedding_launch

        embedding_launch.LOOK_SECONDS = 0.5
        how, message, *_ = answer(shards, tiny, tmp_path / "out", dies(0, rank=1))
        (tmp_path / "said").write_text(f"{how}: {message}")

    with pytest.raises(Exception):  # noqa: B017, PT011 - rank 1 never answers
        on_ranks(work, 2, timeout=8)
    said = (tmp_path / "said").read_text()
    assert said.startswith("RunError: rank 1 on ")
    assert "no sign of life; the same command goes on from the chunks that are there" in said
    assert there(tmp_path / "out") == 4


@pytest.mark.slow
def test_a_launch_whose_rank_is_killed_ends_and_goes_on(
    shards: Path, tiny: Path, tmp_path: Path, expected: dict[str, bytes]
):
    """As a user would: accelerate launch, SIGKILL to one of its processes, the same command again."""
    out, config = tmp_path / "out", "configs/launch/cpu2.yaml"
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "-m", "contrastive"]
    words += ["data", "embed", str(shards), "data.caption_key=json.captions", "--model", str(tiny), "--out", str(out)]
    words += ["--chunk", str(CHUNK), "--batch-size", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = tmp_path / "slow" / "sitecustomize.py"
    script.parent.mkdir()
    script.write_text(SLOWLY)
    slowly = {**environment, "PYTHONPATH": f"{script.parent}:{ROOT}"}
    with subprocess.Popen(words, cwd=ROOT, env=slowly, stderr=subprocess.PIPE, text=True) as launch:
        until = time.monotonic() + 120
        while not there(out) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(int((tmp_path / "slow" / "rank1").read_text()), signal.SIGKILL)
        launch.communicate(timeout=60)
        assert launch.returncode != 0
    assert 0 < there(out) < 7
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert content(out) == expected


SLOWLY = """
import os, pathlib, sys, time
if os.environ.get("RANK") == "1":
    (pathlib.Path(__file__).parent / "rank1").write_text(str(os.getpid()))
if "RANK" in os.environ:
    import builtins
    real = os.replace
    def replace(source, target):
        real(source, target)
        if str(target).endswith(".parquet"):
            time.sleep(1)
    os.replace = replace
"""
