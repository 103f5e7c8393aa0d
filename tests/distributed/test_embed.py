"""Embedding on real processes equals embedding on one, with and without a cache, also after a kill."""

import multiprocessing
import os
import queue
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contrastive import distributed
from contrastive.errors import Preempted, UserError
from contrastive.eval.cache import EmbeddingCache
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.embed import Pass, embed
from contrastive.eval.spec import DatasetSpec
from contrastive.eval.suite import evaluate
from tests.eval.toys import ToyModel, png, to_tensor, tokenize, write_classes, write_folder, write_tar
from tests.toys import on_ranks

COUNT = 23  # odd: the ranks' shares differ


class Counting(ToyModel):
    """Counts the images it encodes; kills its process where it is told to."""

    def __init__(self, dies_after: int | None = None) -> None:
        super().__init__()
        self.images, self.dies_after = 0, dies_after

    def encode_image(self, image: Tensor) -> Tensor:
        self.images += len(image)
        if self.dies_after is not None and self.images > self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(image)


def classes(root: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    write_classes(write_folder(root, [{"cls": "0"}], shards=1), ["zero", "one", "two"])
    members = {f"{i}.png": b"no image" if i in broken else png(i) for i in range(count)}
    write_tar(root / "test/0.tar", members | {f"{i}.cls": str(i % 3).encode() for i in range(count)})
    return root


def opened(root: Path, **options: Any) -> EvalDataset:
    return open_dataset(DatasetSpec("toy", str(root), **options))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classes(tmp_path_factory.mktemp("embed") / "whole", COUNT)


def answer(dataset: EvalDataset, how: Pass, model: ToyModel | None = None) -> dict[str, Any]:
    """Return what a pass finds, or how it fails, in what goes from process to process."""
    model = model or Counting()
    try:
        found = embed(model, to_tensor, tokenize, dataset, how)
    except (UserError, RuntimeError, Preempted) as error:
        said = {"error": type(error).__name__, "message": str(error)}
        return {**said, "is_everywhere": getattr(error, "is_everywhere", None)}
    features = {"images": found.image_features.numpy(), "texts": found.text_features.numpy()}
    facts = {"unreadable": found.unreadable, "computed": found.computed, "warnings": found.warnings}
    return {**features, **facts, "encoded": getattr(model, "images", None)}


def whole(root: Path) -> dict[str, Any]:
    return answer(opened(root), Pass(batch_size=5))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("images", "texts"):
        torch.testing.assert_close(torch.from_numpy(found[name]), torch.from_numpy(expected[name]), atol=1e-6, rtol=0)


def caching(folder: Path, batch_size: int = 4) -> Pass:
    return Pass(batch_size=batch_size, cache=EmbeddingCache(folder, "model", flush_seconds=0.0))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_embed_what_one_does(root: Path, world_size: int) -> None:
    dataset = opened(root, tasks=("zeroshot",))
    expected, alone = whole(root), evaluate(ToyModel(), to_tensor, tokenize, [dataset])[0]

    def work() -> tuple[dict[str, Any], dict[str, float]]:
        metrics = evaluate(ToyModel(), to_tensor, tokenize, [dataset])[0].metrics
        return answer(dataset, Pass(batch_size=4)), dict(metrics)

    for found, metrics in on_ranks(work, world_size):
        assert_same(found, expected)
        assert found["encoded"] < COUNT
        assert metrics == pytest.approx(alone.metrics)


def test_more_processes_than_images(tmp_path: Path) -> None:
    root = classes(tmp_path / "few", 3)
    expected = whole(root)
    for found in on_ranks(lambda: answer(opened(root), Pass()), 4):
        assert_same(found, expected)


def test_features_are_exchanged_in_pieces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastive.eval.sharing.PIECE_BYTES", 3 * 4 * 16)  # three rows
    expected = whole(root)
    for found in on_ranks(lambda: answer(opened(root), Pass()), 2):
        assert_same(found, expected)


def test_unreadable_image_of_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    root = classes(tmp_path / "broken", 8, broken=(4,))
    for found in on_ranks(lambda: answer(opened(root), Pass()), 2):
        assert found["error"] == "DataError"
        assert found["is_everywhere"]
        assert "1 of 8 images (12.50%) cannot be read: 0.tar: 4; " in found["message"]


def test_unreadable_images_within_the_rate_are_left_out_on_all(tmp_path: Path) -> None:
    root = classes(tmp_path / "broken", 9, broken=(1, 4))
    dataset = opened(root, max_unreadable=0.3)
    expected = answer(dataset, Pass())
    for found in on_ranks(lambda: answer(dataset, Pass(batch_size=2)), 4):
        assert_same(found, expected)
        assert found["unreadable"] == expected["unreadable"] == ("0.tar: 1", "0.tar: 4")
        assert found["warnings"] == expected["warnings"]


def test_ranks_that_see_other_data_are_refused_before_they_work(tmp_path: Path) -> None:
    roots = [classes(tmp_path / str(count), count) for count in (4, 6)]
    model = Counting()
    for found in on_ranks(lambda: answer(opened(roots[distributed.rank()]), Pass(), model), 2):
        assert found["error"] == "DataError"
        assert "dataset toy: rank 1 sees other data than rank 0" in found["message"]
    assert model.images == 0


class Exhausted(ToyModel):
    def encode_image(self, image: Tensor) -> Tensor:
        if distributed.rank() == 1:
            raise RuntimeError("out of memory")
        return super().encode_image(image)


def test_a_failure_of_one_rank_is_raised_on_all(root: Path) -> None:
    first, second = on_ranks(lambda: answer(opened(root), Pass(), Exhausted()), 2)
    assert (second["error"], second["message"]) == ("RuntimeError", "out of memory")
    assert (first["error"], first["message"]) == ("RunError", "evaluation failed on rank 1: out of memory")


def test_a_signal_to_one_rank_ends_all(root: Path) -> None:
    def asked(what: str, done: int, total: int) -> None:
        if distributed.rank() == 1:
            raise Preempted(15)

    for found in on_ranks(lambda: answer(opened(root), Pass(progress=asked)), 2):
        assert (found["error"], found["message"]) == ("Preempted", "15")


def killed(root: Path, cache: Path, dies_after: int) -> None:
    """Embed in a process that is killed once it has encoded so many images."""

    def work() -> None:
        embed(Counting(dies_after), to_tensor, tokenize, opened(root), caching(cache))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("world_size", [2, 4])
def test_more_processes_go_on_where_one_was_killed(root: Path, tmp_path: Path, world_size: int) -> None:
    expected = whole(root)
    killed(root, tmp_path, dies_after=12)
    answers = on_ranks(lambda: answer(opened(root), caching(tmp_path, batch_size=2)), world_size)
    for found in answers:
        assert_same(found, expected)
    assert sum(found["encoded"] for found in answers) == COUNT - 12
    assert answer(opened(root), caching(tmp_path))["computed"] == 0


def test_one_process_goes_on_where_two_were_killed(root: Path, tmp_path: Path) -> None:
    with pytest.raises(queue.Empty):  # nobody answers
        on_ranks(lambda: answer(opened(root), caching(tmp_path), Counting(dies_after=8)), 2, timeout=2)
    found = answer(opened(root), caching(tmp_path))
    assert found["encoded"] == COUNT - 2 * 8
    assert_same(found, whole(root))


def test_ranks_with_a_cache_each_share_what_they_have(root: Path, tmp_path: Path) -> None:
    """One machine was killed late, one early; what both have is embedded by nobody, nor is what one of them has."""
    expected = whole(root)
    killed(root, tmp_path / "0", dies_after=16)
    killed(root, tmp_path / "1", dies_after=8)

    def work() -> dict[str, Any]:
        return answer(opened(root), caching(tmp_path / str(distributed.rank())))

    answers = on_ranks(work, 2)
    for found in answers:
        assert_same(found, expected)
    assert sum(found["encoded"] for found in answers) == COUNT - 16
    for found in on_ranks(work, 2):
        assert found["computed"] == 0
        assert_same(found, expected)


def test_a_damaged_part_on_one_rank_is_embedded_again(root: Path, tmp_path: Path) -> None:
    expected = whole(root)
    killed(root, tmp_path, dies_after=12)
    part = sorted(tmp_path.glob("*/part-*"))[0]
    part.write_bytes(part.read_bytes()[:-9])
    answers = on_ranks(lambda: answer(opened(root), caching(tmp_path)), 2)
    for found in answers:
        assert_same(found, expected)
    assert sum(found["encoded"] for found in answers) == COUNT - 8
