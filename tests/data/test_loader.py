import hashlib
import multiprocessing
import os
import re
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
from contrastive.train.signals import StopRequest
from tests import toys
from tests.data.test_rows import alike, spoilt
from tests.data.toys import batches, joined, rows, settings
from tests.test_processes import forked, is_alive, seconds_until, status_of, tell, told


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
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DataError, match=r"data: a worker died: process \d+ .* signal 9 .*reader 0: open"):
        list(loader.batches(0, 2))
    thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_a_thread_prepares_are_the_same(shards: Path, monkeypatch: pytest.MonkeyPatch, workers: int):
    plain = [digest(batch) for batch in batches(settings(shards, global_batch_size=8, workers=0), 5)]
    found = Loader(rows(settings(shards, global_batch_size=8)), workers=workers, pin_memory=True)
    monkeypatch.setattr(found, "_concatenated", lambda parts, copy=False: torch.cat(parts))  # there is no device here
    assert [digest(batch) for batch in found.batches(0, 5)] == plain
    seconds_until(lambda: not multiprocessing.active_children())


def trains(shards: Path, folder: Path, steps: int) -> None:
    """Read `steps` batches in the main thread as a training loop would, with the handlers of a run; say how it goes."""
    found = Loader(rows(settings(shards, global_batch_size=8)), workers=2)
    with StopRequest() as stop:
        for step, _ in enumerate(found.batches(0, steps)):
            if step == 0:
                workers = multiprocessing.active_children()
                for number, worker in enumerate(workers):
                    tell(folder, f"worker{number}", worker.pid)
            time.sleep(0.05)
    tell(folder, "done", 0 if stop.signal is None else int(stop.signal))


def test_a_signal_to_the_whole_group_costs_no_batch(shards: Path, tmp_path: Path):
    child = forked(lambda: trains(shards, tmp_path, 20))
    told(tmp_path, "worker1")
    os.killpg(child, signal.SIGTERM)
    assert status_of(child) == 0
    assert told(tmp_path, "done") == signal.SIGTERM


def test_workers_are_gone_when_their_process_was_killed(shards: Path, tmp_path: Path):
    child = forked(lambda: trains(shards, tmp_path, 10_000))
    workers = [told(tmp_path, "worker0"), told(tmp_path, "worker1")]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert seconds_until(lambda: not any(is_alive(worker) for worker in workers)) < 2


@pytest.mark.parametrize("pin_memory", [False, True])
def test_leaving_ends_workers_at_once(shards: Path, monkeypatch: pytest.MonkeyPatch, pin_memory: bool):
    loader = Loader(rows(settings(shards, global_batch_size=8)), workers=2, pin_memory=pin_memory)
    monkeypatch.setattr(loader, "_concatenated", lambda parts, copy=False: torch.cat(parts))
    found = loader.batches(0, 10_000)
    next(found)
    started = time.monotonic()
    found.close()
    assert seconds_until(lambda: not multiprocessing.active_children()) < 5
    assert time.monotonic() - started < 10


def test_leaving_does_not_wait_for_a_worker_that_stands_still(shards: Path):
    found = Loader(rows(settings(shards, global_batch_size=8)), workers=2).batches(0, 10_000)
    next(found)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP)
    started = time.monotonic()
    found.close()
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 10


def test_an_error_ends_the_workers_though_its_traceback_lives_on(shards: Path):
    loader = Loader(rows(settings(shards, global_batch_size=8, retries=0)), workers=2)
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        list(loader.batches(0, 2))
    assert not multiprocessing.active_children()
    del caught


def test_a_worker_that_dies_is_noticed_where_its_batch_is_waited_for(shards: Path):
    found = Loader(rows(settings(shards, global_batch_size=8)), workers=2).batches(0, 10_000)
    next(found)
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.3)  # a step, which it must not interrupt
    with pytest.raises(DataError) as caught:
        list(found)
    said = str(caught.value)
    assert said.startswith(f"data: a worker died: process {worker.pid} was ended by signal 9 (Killed) (reader 0: ")
    assert re.search(r"this process held up to \d+\.\d GiB, a worker up to \d+\.\d GiB, .* of /dev/shm are free", said)
    assert "\n" not in said


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
