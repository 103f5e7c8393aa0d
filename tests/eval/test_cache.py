import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from contrastive.errors import DataError, Preempted
from contrastive.eval.cache import EmbeddingCache, Entry, Rows
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.embed import Embeddings, Pass, Precision, embed
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import ToyModel, png, to_tensor, tokenize, write_classes, write_folder, write_tar


def rows(*ids: int, width: int = 3) -> Rows:
    """Row i is i, i + 1, …"""
    return Rows(torch.tensor(ids), torch.tensor(ids)[:, None] + torch.arange(width, dtype=torch.float32))


def entry(folder: Path, content: object = "content", **options: object) -> Entry:
    return EmbeddingCache(folder, "model", **options).entry(content, {"dataset": "toy"})  # type: ignore[arg-type]


def same(found: Rows, expected: Rows) -> bool:
    order = found.ids.argsort()
    return torch.equal(found.ids[order], expected.ids) and torch.equal(found.features[order], expected.features)


def test_an_entry_begins_empty(tmp_path: Path) -> None:
    assert len(entry(tmp_path / "none").read().ids) == 0


def test_rows_that_were_flushed_are_read_by_another(tmp_path: Path) -> None:
    first, second = entry(tmp_path), entry(tmp_path)
    first.add(*rows(0, 2))
    first.flush()
    second.add(*rows(5))
    second.flush()
    assert same(entry(tmp_path).read(), rows(0, 2, 5))


def test_rows_are_written_when_it_is_time(tmp_path: Path) -> None:
    late, soon = entry(tmp_path, flush_seconds=1000.0), entry(tmp_path, flush_seconds=0.0)
    late.add(*rows(0))
    assert not tmp_path.joinpath(late.name).exists()
    soon.add(*rows(1))
    assert same(entry(tmp_path).read(), rows(1))


def test_ids_of_several_parts_come_once(tmp_path: Path) -> None:
    for ids in ((0, 1), (1, 2)):
        one = entry(tmp_path)
        one.add(*rows(*ids))
        one.flush()
    assert same(entry(tmp_path).read(), rows(0, 1, 2))


def test_finishing_puts_one_file_in_the_place_of_the_parts(tmp_path: Path) -> None:
    one = entry(tmp_path, flush_seconds=0.0)
    one.add(*rows(0))
    one.add(*rows(1))
    one.finish(rows(0, 1))
    assert sorted(path.name for path in one.folder.iterdir()) == ["manifest.json", "whole.safetensors"]
    assert same(entry(tmp_path).read(), rows(0, 1))
    said = json.loads((one.folder / "manifest.json").read_text())
    assert (said["dataset"], said["identity"], said["rows"], said["width"]) == ("toy", "model", 2, 3)


def test_rows_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    one = entry(tmp_path)
    bad = rows(0, 1, 2)
    bad.features[1, 2] = float("nan")
    one.add(*bad)
    one.flush()
    assert same(entry(tmp_path).read(), rows(0, 2))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty])
def test_damaged_file_is_ignored_with_one_warning(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    one = entry(tmp_path, flush_seconds=0.0)
    one.add(*rows(0, 1))
    damage(next(one.folder.glob("part-*")))
    one.add(*rows(7))
    with caplog.at_level(logging.WARNING):
        assert same(entry(tmp_path).read(), rows(7))
        assert same(entry(tmp_path).read(), rows(7))
    assert [record for record in caplog.messages if "is damaged" in record and "embedded again" in record]
    assert len(caplog.messages) == 1


def test_file_of_another_entry_is_not_taken(tmp_path: Path) -> None:
    one, other = entry(tmp_path, "one", flush_seconds=0.0), entry(tmp_path, "other", flush_seconds=0.0)
    one.add(*rows(0))
    other.add(*rows(1))
    next(one.folder.glob("part-*")).rename(other.folder / "part-moved.safetensors")
    assert same(entry(tmp_path, "other").read(), rows(1))


def test_least_recently_used_entries_go_first_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x" * 5000)
    names = []
    for number, age in enumerate((300, 100, 200)):
        one = entry(tmp_path, number)
        one.finish(rows(*range(100)))
        for path in one.folder.iterdir():
            os.utime(path, (time.time() - age, time.time() - age))
        names.append(one.name)
    size = sum(path.stat().st_size for path in (tmp_path / names[0]).iterdir())
    entry(tmp_path, 0).read()  # now the newest
    entry(tmp_path, 3, max_bytes=int(3.5 * size)).finish(rows(*range(100)))
    assert [(tmp_path / name).exists() for name in names] == [True, True, False]
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_more_than_the_cache_may_hold_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = entry(tmp_path, max_bytes=100)
    one.finish(rows(*range(100)))
    assert not one.folder.exists()
    assert "cannot keep 1,200 bytes of features, more than its 100" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    one = entry(tmp_path / "file", flush_seconds=0.0)
    assert len(one.read().ids) == 0
    one.add(*rows(0))
    one.add(*rows(1))
    one.finish(rows(0, 1))
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.messages[0]


def test_files_that_a_killed_process_left_half_written_go_after_a_day(tmp_path: Path) -> None:
    one = entry(tmp_path)
    one.finish(rows(0))
    for name, age in ((".old", 90_000), (".new", 0)):
        (one.folder / name).write_text("half")
        os.utime(one.folder / name, (time.time() - age, time.time() - age))
    one.finish(rows(0))
    assert {path.name for path in one.folder.glob(".*")} == {".new"}


# The pass with a cache.


class Counting(ToyModel):
    """Counts the rows it encodes, and kills its process where it is told to, as a lost machine would."""

    def __init__(self, dies_after: int | None = None) -> None:
        super().__init__()
        self.images, self.texts, self.dies_after = 0, 0, dies_after

    def encode_image(self, image: Tensor) -> Tensor:
        self.images += len(image)
        if self.dies_after is not None and self.images > self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(image)

    def encode_text(self, text: Tensor) -> Tensor:
        self.texts += len(text)
        return super().encode_text(text)


@pytest.fixture
def dataset(tmp_path: Path) -> EvalDataset:
    root = write_folder(tmp_path / "data", [{"cls": str(i % 3)} for i in range(23)])
    return open_dataset(DatasetSpec("toy", str(write_classes(root, ["zero", "one", "two"]))))


def cached(folder: Path, identity: str = "model", precision: Precision = "fp32") -> Pass:
    return Pass(batch_size=4, precision=precision, cache=EmbeddingCache(folder / "cache", identity, flush_seconds=0.0))


def run(dataset: EvalDataset, how: Pass) -> tuple[Embeddings, int, int]:
    """Return what a pass finds, and how many images and texts it encoded."""
    model = Counting()
    found = embed(model, to_tensor, tokenize, dataset, how)
    assert found.computed == model.images + model.texts
    return found, model.images, model.texts


def test_second_pass_encodes_nothing_and_finds_the_same(tmp_path: Path, dataset: EvalDataset) -> None:
    first, images, texts = run(dataset, cached(tmp_path))
    assert (images, texts) == (23, 6)
    second, images, texts = run(dataset, replace(cached(tmp_path), batch_size=7))
    assert (images, texts) == (0, 0)
    assert torch.equal(first.image_features, second.image_features)
    assert torch.equal(first.text_features, second.text_features)


def test_changed_prompts_embed_texts_alone(tmp_path: Path, dataset: EvalDataset) -> None:
    run(dataset, cached(tmp_path))
    _, images, texts = run(replace(dataset, texts=(*dataset.texts, "another")), cached(tmp_path))
    assert (images, texts) == (0, 7)


def test_other_model_precision_or_images_are_other_entries(tmp_path: Path, dataset: EvalDataset) -> None:
    run(dataset, cached(tmp_path))
    assert run(dataset, cached(tmp_path, identity="other"))[1:] == (23, 6)
    assert run(dataset, cached(tmp_path, precision="bf16"))[1:] == (23, 6)
    assert run(dataset.without([4]), cached(tmp_path))[1:] == (22, 0)


def test_other_pixels_behind_equal_names_and_sizes_are_noticed(tmp_path: Path, dataset: EvalDataset) -> None:
    images = tuple(Flat(f"{index}", 0) for index in range(9))
    run(replace(dataset, images=images, labels=()), cached(tmp_path))
    assert run(replace(dataset, images=images, labels=()), cached(tmp_path))[1] == 0
    other = tuple(Flat(f"{index}", 90) for index in range(9))
    assert run(replace(dataset, images=other, labels=()), cached(tmp_path))[1] == 9


class Flat:
    """An image of one colour, whose stamp does not tell which."""

    stamp = "108"

    def __init__(self, name: str, colour: int) -> None:
        self.name, self.colour = name, colour

    def decode(self) -> Image.Image:
        return Image.new("RGB", (6, 6), (self.colour, int(self.name) * 20, 0))


def test_damaged_entry_is_embedded_again(tmp_path: Path, dataset: EvalDataset) -> None:
    expected, _, _ = run(dataset, cached(tmp_path))
    for path in (tmp_path / "cache").glob("*/whole.safetensors"):
        flip_a_bit(path)
    found, images, texts = run(dataset, cached(tmp_path))
    assert (images, texts) == (23, 6)
    assert torch.equal(found.image_features, expected.image_features)


def test_a_signal_leaves_what_was_done(tmp_path: Path, dataset: EvalDataset) -> None:
    def asked(what: str, done: int, total: int) -> None:
        if done >= 8:
            raise Preempted(15)

    how = cached(tmp_path)
    slow = EmbeddingCache(tmp_path / "cache", "model", flush_seconds=1000.0)
    with pytest.raises(Preempted):
        run(dataset, replace(how, cache=slow, progress=asked))
    found, images, _ = run(dataset, how)
    assert images == 23 - 8
    assert torch.equal(found.image_features, run(dataset, Pass(batch_size=4))[0].image_features)


def forked(*works: Callable[[], None]) -> list[int | None]:
    """Do all of `works` at once, each in its own process; return how they ended."""
    processes = [multiprocessing.get_context("fork").Process(target=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def test_kill_loses_only_what_was_not_written(tmp_path: Path, dataset: EvalDataset) -> None:
    ends = forked(lambda: embed(Counting(dies_after=12), to_tensor, tokenize, dataset, cached(tmp_path)) and None)
    assert ends == [-signal.SIGKILL]
    found, images, _ = run(dataset, replace(cached(tmp_path), batch_size=3))
    assert images == 23 - 12
    expected, _, _ = run(dataset, Pass())
    torch.testing.assert_close(found.image_features, expected.image_features, atol=1e-6, rtol=0)
    assert not list((tmp_path / "cache").glob("*/part-*"))


def test_processes_that_share_a_cache_do_not_disturb_each_other(tmp_path: Path, dataset: EvalDataset) -> None:
    expected, _, _ = run(dataset, Pass())

    def work(turn: int) -> None:
        how = replace(cached(tmp_path, identity=f"model{turn % 2}"), batch_size=1 + turn)
        found = embed(ToyModel(), to_tensor, tokenize, dataset, how)
        torch.testing.assert_close(found.image_features, expected.image_features, atol=1e-6, rtol=0)

    assert forked(*(lambda turn=turn: work(turn) for turn in range(6))) == [0] * 6  # type: ignore[misc]
    assert run(dataset, cached(tmp_path, identity="model1"))[1:] == (0, 0)


def test_unreadable_images_stay_left_out_of_a_cached_pass(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}], shards=1), ["zero", "one"])
    members = {f"{i}.png": b"no image" if i == 3 else png(i) for i in range(10)}
    write_tar(root / "test/0.tar", members | {f"{i}.cls": str(i % 2).encode() for i in range(10)})
    strict = DatasetSpec("toy", str(root))
    with pytest.raises(DataError, match="1 of 10 images"):
        run(open_dataset(strict), replace(cached(tmp_path), batch_size=10))
    lax = open_dataset(replace(strict, max_unreadable=0.1))
    first, images, _ = run(lax, cached(tmp_path))
    assert images == 0  # the pass that was refused has left them
    second, images, texts = run(lax, cached(tmp_path))
    assert (images, texts) == (0, 0)
    assert first.unreadable == second.unreadable == ("0.tar: 3",)
    assert first.warnings == second.warnings
    assert len(second.image_features) == len(second.dataset) == 9
