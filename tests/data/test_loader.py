import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from contrastive.data import loader as loader_module
from contrastive.data.loader import Loader, cut_padding
from contrastive.data.quarantine import Quarantine
from contrastive.data.rows import Batch
from contrastive.errors import DataError
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from tests import toys
from tests.data.test_rows import alike, spoilt
from tests.data.toys import batches, joined, rows, settings


def digest(batch: Batch) -> str:
    content = [
        (name, value.dtype, tuple(value.shape), value.numpy().tobytes()) for name, value in sorted(batch.items())
    ]
    return hashlib.sha256(repr(content).encode()).hexdigest()


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (1, 2), (1, 5), (2, 1)])
def test_the_global_batch_is_the_same_bits_on_any_layout(shards: Path, world_size: int, workers: int):
    alone = batches(settings(shards, global_batch_size=8, workers=0), 4)
    data = settings(shards, global_batch_size=8, workers=workers)
    ranks = [batches(data, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(4):
        assert digest(joined([rank[step] for rank in ranks])) == digest(alone[step])


def test_ids_are_the_same_on_any_layout(tmp_path: Path):
    data = settings(alike(tmp_path), global_batch_size=8, label_key="cls", workers=0)
    (alone,) = batches(data, 1)
    together = joined([batches(data, 1, rank=rank, world_size=4)[0] for rank in range(4)])
    assert all(torch.equal(together[name], alone[name]) for name in ("image_id", "caption_id", "label_id"))


def test_an_epoch_holds_every_sample_once_across_batches(shards: Path):
    seen = torch.cat([b["index"] for b in batches(settings(shards, global_batch_size=16, workers=0), 5, seed=3)])
    assert sorted(seen[:40].tolist()) == list(range(40))
    assert sorted(seen[40:].tolist()) == list(range(40))
    assert seen[:40].tolist() != seen[40:].tolist()


def test_a_start_in_the_middle_equals_the_tail_of_the_whole(shards: Path):
    data = settings(shards, global_batch_size=8, workers=0)
    whole = batches(data, 6)
    for tail in (batches(data, 2, first_step=4), batches(data, 2, consumed=32)):
        assert [digest(batch) for batch in tail] == [digest(batch) for batch in whole[4:]]


def test_images_stay_channels_last_when_pieces_are_joined(shards: Path):
    (batch,) = batches(settings(shards, global_batch_size=8, workers=2), 1)
    assert batch["image"].shape == (8, 3, toys.SIZE, toys.SIZE)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


def test_reading_draws_nothing_from_the_global_generator(shards: Path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(settings(shards, global_batch_size=8, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_replaced_alike_by_any_number_of_workers(tmp_path: Path, workers: int):
    data = settings(spoilt(tmp_path), global_batch_size=10, workers=workers)
    quarantine = Quarantine(tmp_path / "q.jsonl", max_share=1)
    (batch,) = Loader(rows(data), workers=workers, quarantine=quarantine).batches(0, 1)
    (alone,) = batches(settings(tmp_path, global_batch_size=10, workers=0), 1)
    assert digest(batch) == digest(alone)
    assert quarantine.reasons == {"image: not an image": 2}
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_is_named_in_one_line(shards: Path, workers: int):
    loader = Loader(rows(settings(shards, global_batch_size=8, retries=0)), workers=workers)
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        list(loader.batches(0, 2))
    assert ".tar: cannot be opened any more" in str(caught.value)
    assert "\n" not in str(caught.value)


def stuck(shards: Path) -> None:
    """Put pipes into which nobody writes in the place of the shards."""
    for path in shards.glob("*.tar"):
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_that_hangs_ends_with_the_shard_and_the_stage(shards: Path, workers: int):
    loader = Loader(rows(settings(shards, global_batch_size=8)), workers=workers, timeout_seconds=1.0)
    stuck(shards)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"no sign of life .*\(reader 0: open .*\.tar"):
        list(loader.batches(0, 2))
    assert time.monotonic() - started < 30


def test_too_little_shared_memory_is_refused_before_anything_dies(shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader_module, "_free_shared_memory", lambda: 1.9 * 8 * toys.SIZE**2 * 3)
    data = settings(shards, global_batch_size=8)
    with pytest.raises(DataError, match=r"shared memory \(/dev/shm\): 0\.0 MiB for each batch of 8, .*--shm-size"):
        list(Loader(rows(data), workers=2).batches(0, 1))
    assert len(list(Loader(rows(data)).batches(0, 1))) == 1


@pytest.mark.parametrize("slots", [2, 3])
def test_with_little_shared_memory_fewer_batches_are_prepared_and_they_are_the_same(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slots: int
):
    data = settings(shards, global_batch_size=8, workers=2)
    expected = [digest(batch) for batch in batches(settings(shards, global_batch_size=8, workers=0), 9)]
    monkeypatch.setattr(loader_module, "_free_shared_memory", lambda: (slots + 0.5) * 8 * toys.SIZE**2 * 3)
    with caplog.at_level("WARNING", "contrastive"):
        assert [digest(batch) for batch in batches(data, 9)] == expected
    assert f"only {slots - 1} are prepared ahead; give it more" in caplog.text


def test_a_worker_that_is_killed_is_reported(shards: Path):
    loader = Loader(rows(settings(shards, global_batch_size=8)), workers=1, timeout_seconds=20.0)
    stuck(shards)

    def kill() -> None:
        time.sleep(1.0)
        import multiprocessing

        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DataError, match=r"data: DataLoader worker .*(killed|exited).*reader 0: open"):
        list(loader.batches(0, 2))
    thread.join()


def test_batches_are_prepared_ahead_by_a_thread_and_stay_in_order(shards: Path, monkeypatch: pytest.MonkeyPatch):
    from contrastive.data import loader as module

    plain = [digest(batch) for batch in batches(settings(shards, global_batch_size=8, workers=0), 5)]
    ahead = module._ahead(Loader(rows(settings(shards, global_batch_size=8))).batches(0, 5), 2)
    assert [digest(batch) for batch in ahead] == plain


def test_an_error_of_the_thread_ahead_comes_in_its_place():
    from contrastive.data.loader import _ahead

    def items():
        yield 1
        raise DataError("broken")

    found = _ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(DataError, match="broken"):
        next(found)


def test_a_consumer_that_leaves_ends_the_thread_ahead():
    from contrastive.data.loader import _ahead

    found = _ahead(iter(range(10**9)), 2)
    next(found)
    found.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "data ahead" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("longest", "expected"), [(1, 8), (8, 8), (9, 16), (17, 20), (0, 8)])
def test_padding_is_cut_to_a_multiple_of_eight(longest: int, expected: int):
    text = torch.zeros(3, 20, dtype=torch.long)
    text[1, :longest] = 5
    cut = cut_padding(text, pad_id=0)
    assert cut.shape == (3, expected)
    assert torch.equal(cut, text[:, :expected])


def test_a_caption_has_one_id_however_its_batch_is_cut(tmp_path: Path):
    members = []
    for number, text in enumerate(["cat", "a very long tale of a cat that sat on a mat", "cat"]):
        members += [
            (f"{number}.png", toys.encode(toys.image(number))),
            (f"{number}.json", b'{"captions": "%s"}' % text.encode()),
        ]
    toys.write_tar(tmp_path / "a.tar", members)
    found = {}
    for rank in range(3):
        loader = Loader(rows(settings(tmp_path, global_batch_size=3), rank=rank, world_size=3), cut_text=True)
        (batch,) = loader.batches(0, 1)
        found[int(batch["index"])] = (int(batch["caption_id"]), batch["text"].shape[1])
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert found[0][1] < found[1][1]


def taught(folder: Path, *, cut: bool, cut_student: bool) -> Batch:
    own = Tokenizer(TokenizerSpec(None, 12))
    found = rows(settings(folder, global_batch_size=8), teacher_tokenizer=own)
    return next(Loader(found, cut_text=cut_student, cut_teacher_text=cut).batches(0, 1))


@pytest.mark.parametrize("cut", [False, True])
def test_a_teacher_of_the_same_ids_and_way_with_padding_shares_the_students(shards: Path, cut: bool):
    assert "teacher_text" not in taught(shards, cut=cut, cut_student=cut)


@pytest.mark.parametrize("cut", [False, True])
def test_a_teacher_that_treats_padding_otherwise_has_rows_of_its_own(tmp_path: Path, cut: bool):
    batch = taught(alike(tmp_path), cut=cut, cut_student=not cut)
    shorter, longer = ("teacher_text", "text") if cut else ("text", "teacher_text")
    assert (batch[shorter].shape, batch[longer].shape) == ((8, 8), (8, 12))
    assert torch.equal(batch[longer][:, :8], batch[shorter])
    assert not batch[longer][:, 8:].any()


def test_samples_of_each_source_are_counted(tmp_path: Path):
    toys.write_shards(tmp_path / "a", 30, 2)
    toys.write_shards(tmp_path / "b", 10, 1)
    data = settings(
        sources={"a": str(tmp_path / "a"), "b": {"shards": str(tmp_path / "b"), "weight": 3}}, global_batch_size=20
    )
    loader = Loader(rows(data))
    list(loader.batches(0, 3))
    assert loader.epoch_samples == 60
    assert loader.counts() == {"replaced": 0, "samples/a": 30, "samples/b": 30}
