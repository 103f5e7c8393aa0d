"""Embedding on real processes equals embedding on one."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from contrastive import distributed
from contrastive.errors import UserError
from contrastive.eval.datasets import DatasetSpec, open_dataset
from contrastive.eval.embed import embed
from contrastive.eval.suite import evaluate
from tests.eval.toys import ToyModel, to_tensor, tokenize, write_classes, write_folder, write_tar

WORLD_SIZE = 2
SCENARIOS = ("whole", "broken", "different")


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    answers = {name: answer(folder / (f"{name}{rank}" if name == "different" else name)) for name in SCENARIOS}
    torch.save({"world_size": distributed.world_size(), **answers}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def answer(root: Path) -> dict[str, Any]:
    dataset = open_dataset(DatasetSpec("toy", str(root)))
    try:
        found = embed(ToyModel(), to_tensor, tokenize, dataset, batch_size=4)
        metrics = evaluate(ToyModel(), to_tensor, tokenize, [dataset])[0].metrics
        return {"images": found.image_features, "texts": found.text_features, "metrics": metrics}
    except UserError as error:
        return {"error": type(error).__name__, "message": str(error)}


def classes(root: Path, count: int) -> Path:
    return write_classes(write_folder(root, [{"cls": str(i % 3)} for i in range(count)]), ["zero", "one", "two"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    classes(folder / "whole", 23)  # odd: the ranks' shares differ
    classes(folder / "different0", 4)
    classes(folder / "different1", 6)
    broken = classes(folder / "broken", 4)
    write_tar(broken / "test/0.tar", {"a.png": b"no image", "a.cls": b"0"})  # index 0: the share of rank 0
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[dict[str, Any]]:
    """Each rank's answers to all scenarios, of one launch."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=process, args=(rank, folder)) for rank in range(WORLD_SIZE)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(120)
        if one.is_alive():
            one.kill()
            pytest.fail("a process hangs")
    found = [torch.load(folder / f"{rank}.pt") for rank in range(WORLD_SIZE)]
    assert [answer["world_size"] for answer in found] == [WORLD_SIZE] * WORLD_SIZE
    return found


def test_two_processes_embed_what_one_does(folder: Path, answers: list[dict[str, Any]]) -> None:
    dataset = open_dataset(DatasetSpec("toy", str(folder / "whole")))
    expected = embed(ToyModel(), to_tensor, tokenize, dataset, batch_size=5)
    metrics = evaluate(ToyModel(), to_tensor, tokenize, [dataset])[0].metrics
    for found in (each["whole"] for each in answers):
        torch.testing.assert_close(found["images"], expected.image_features, atol=1e-6, rtol=0)
        torch.testing.assert_close(found["texts"], expected.text_features, atol=1e-6, rtol=0)
        assert found["metrics"] == pytest.approx(metrics)


def test_error_of_one_rank_is_raised_on_all(answers: list[dict[str, Any]]) -> None:
    for found in (each["broken"] for each in answers):
        assert found["error"] == "DataError"
        assert "the image of key 'a' cannot be read" in found["message"]


def test_ranks_that_see_other_data_are_refused(answers: list[dict[str, Any]]) -> None:
    for found in (each["different"] for each in answers):
        assert "rank 1 sees other data than rank 0" in found["message"]
