"""Tasks are shared by real processes: the same results as on one, and no process waits for one that failed."""

import signal
from pathlib import Path
from typing import Any

import pytest

from contrastive import distributed
from contrastive.errors import Preempted, RunError
from contrastive.eval.bootstrap import Sampling
from contrastive.eval.datasets import open_dataset
from contrastive.eval.embed import Embeddings, Pass, embed
from contrastive.eval.result import EvalResult, Result
from contrastive.eval.spec import DatasetSpec
from contrastive.eval.suite import evaluate, score
from tests.eval.toys import ToyModel, to_tensor, tokenize, write_classes, write_folder
from tests.toys import on_ranks

TASKS = ("zeroshot", "retrieval", "calibration", "geometry", "knn")


class FailsOnRankOne:
    """A task with a mistake that only one process meets."""

    def __call__(self, embeddings: Embeddings) -> Result:
        if distributed.rank() == 1:
            raise ZeroDivisionError("nothing to divide by")
        return Result({"fine": 1.0}, {})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotations = [{"cls": str(i % 3), "txt": f"caption {i}\nimage {i}\nthing {i % 4}"} for i in range(21)]
    folder = write_classes(write_folder(tmp_path_factory.mktemp("suite") / "data", annotations), ["zero", "one", "two"])
    write_folder(folder / "more", annotations)
    (folder / "more" / "test").rename(folder / "train")
    return folder


def measured(root: Path, tasks: tuple[str, ...]) -> list[EvalResult]:
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=tasks, train_split="train"))
    return evaluate(ToyModel(), to_tensor, tokenize, [dataset], Pass(batch_size=4), Sampling(resamples=50))


def told(root: Path, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{**one.as_dict(), "timing": None} for one in measured(root, tasks)]


def mistake(root: Path, tasks: tuple[str, ...]) -> tuple[str, str, bool]:
    try:
        measured(root, tasks)
    except (ZeroDivisionError, RunError) as error:
        return type(error).__name__, str(error), getattr(error, "is_everywhere", False)
    raise AssertionError("nothing was raised")


def asked(root: Path) -> int:
    """Score with rank 1 being asked to end before its first task."""
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=("zeroshot", "retrieval")))
    embeddings = embed(ToyModel(), to_tensor, tokenize, dataset)

    def progress(what: str, done: int, total: int) -> None:
        if distributed.rank() == 1:
            raise Preempted(signal.SIGTERM)

    try:
        score(embeddings, progress=progress)
    except Preempted as error:
        return error.signal
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_process_has_all_results_and_they_are_those_of_one(root: Path, ranks: int) -> None:
    (alone,) = on_ranks(told, 1, root, TASKS)
    assert [one["task"] for one in alone] == list(TASKS)
    for found in on_ranks(told, ranks, root, TASKS):
        for one, expected in zip(found, alone, strict=True):
            assert one["metrics"] == pytest.approx(expected["metrics"], rel=1e-6, abs=1e-6)
            assert one["intervals"].keys() == expected["intervals"].keys()
            for name, interval in expected["intervals"].items():
                assert one["intervals"][name] == pytest.approx(interval, rel=1e-6, abs=1e-6)


def test_a_mistake_on_one_process_is_raised_on_all(root: Path) -> None:
    tasks = ("zeroshot", f"{__name__}:FailsOnRankOne")
    first, second = on_ranks(mistake, 2, root, tasks)
    assert first == ("RunError", "evaluation failed on rank 1: nothing to divide by", True)
    assert second == ("ZeroDivisionError", "nothing to divide by", True)


def test_a_process_that_is_asked_to_end_takes_the_others_with_it(root: Path) -> None:
    assert on_ranks(asked, 2, root) == [signal.SIGTERM, signal.SIGTERM]
