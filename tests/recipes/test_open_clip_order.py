import numpy as np

from contrastive.recipes.open_clip_order import Readers, open_clip_epoch


def epoch(counts, batch_size, ranks, workers, seed=0, number=0):
    return open_clip_epoch(Readers(np.array(counts), batch_size, ranks, workers), seed, number)


def test_one_worker_shows_every_sample_once():
    found = epoch([300] * 10, batch_size=100, ranks=1, workers=1)
    assert sorted(np.concatenate(found.batches).tolist()) == list(range(3000))
    assert found.is_whole


def test_a_ranks_batch_comes_whole_from_one_worker():
    # With a buffer as large as all a worker reads, its batches hold its shards and no others.
    found = epoch([100] * 8, batch_size=40, ranks=2, workers=2)
    for turn in range(2):
        of_rank = [
            {int(n) // 100 for batch in found.batches[turn::2] for n in batch[20 * r : 20 * r + 20]} for r in (0, 1)
        ]
        assert [len(shards) for shards in of_rank] == [2, 2]
        assert not of_rank[0] & of_rank[1]


def test_workers_that_run_out_begin_anew_as_open_clip_does():
    found = epoch([100, 20, 100, 100], batch_size=40, ranks=2, workers=2)
    numbers = np.concatenate(found.batches)
    assert len(found.batches) == 8  # 320 samples make 8 batches, two workers yield 4 each
    assert len(numbers) == 320
    assert len(set(numbers.tolist())) < 320


def test_the_buffer_holds_what_webdatasets_holds():
    found = epoch([50_000], batch_size=100, ranks=1, workers=1)
    numbers, ahead = np.concatenate(found.batches), found.moves
    assert ahead[0] < 1000  # the first of 1000 buffered samples
    steady = ahead[10_000:40_000]
    assert 4990 - 1500 < steady.max() <= 5000
    assert (numbers == np.arange(50_000) + ahead).all()


def test_epochs_and_seeds_differ_and_repeat():
    first, second, other, again = (
        np.concatenate(epoch([50] * 20, 100, 2, 2, seed, number).batches).tolist()
        for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0))
    )
    assert first == again
    assert first not in (second, other)


def test_a_worker_without_a_batch_is_what_open_clip_does_not_survive():
    assert epoch([100] * 3, batch_size=8, ranks=2, workers=2) is None
    assert epoch([100, 100, 100, 3], batch_size=8, ranks=2, workers=2) is None


def test_a_long_epoch_is_simulated_from_its_beginning():
    found = epoch([10_000] * 1000, batch_size=1000, ranks=10, workers=10)
    assert not found.is_whole
    assert 1_000_000 < sum(map(len, found.batches)) < 3_000_000
