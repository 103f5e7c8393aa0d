import math
from itertools import pairwise

import numpy as np
import pytest

from contrastive.data.order import Order, Source
from contrastive.errors import ConfigError
from contrastive.recipes.mixing import mixing_report

COUNTS = np.full(50, 200)


def report(batch_size=250, ranks=2, workers=4, counts=COUNTS, **settings):
    return mixing_report(Source(counts, **settings), batch_size, ranks=ranks, workers=workers)


def test_a_full_permutation_mixes_as_independent_draws_do():
    ours, independent = report().ours, report().independent
    assert ours.shards_per_batch == pytest.approx(independent.shards_per_batch, rel=0.02)
    assert ours.next_odds == pytest.approx(1, abs=0.3)
    assert ours.tenth_odds == pytest.approx(1, abs=0.3)
    assert ours.class_chi2 == pytest.approx(1, abs=0.15)
    assert ours.epoch_correlation == pytest.approx(0, abs=0.04)
    assert ours.mean_displacement == pytest.approx(independent.mean_displacement, rel=0.05)
    assert report().verdict == ()


def test_shards_by_chance_is_what_a_draw_with_replacement_gives():
    counts = np.array([10, 200, 50, 0, 40])
    draws = np.random.default_rng(0).choice(5, (4000, 20), p=counts / 300)
    mean = np.mean([len(set(row)) for row in draws.tolist()])
    assert report(20, counts=counts).independent.shards_per_batch == pytest.approx(mean, rel=0.02)


def test_the_figures_are_those_counted_by_loops():
    counts, size, lanes, window = np.array([30, 50, 20, 60, 40]), 20, 2, 12
    found = report(size, counts=counts, lanes=lanes, window=window).ours
    order, ends = Order([Source(counts, lanes=lanes, window=window)], 0), np.cumsum(counts).tolist()
    numbers = order.at(np.arange(400)).number.tolist()
    batches = [numbers[first : first + size] for first in range(0, 200, size)]

    def shard(n):
        return sum(n >= end for end in ends)

    assert found.shards_per_batch == pytest.approx(np.mean([len({shard(n) for n in batch}) for batch in batches]))
    for distance, odds in ((1, found.next_odds), (10, found.tenth_odds)):
        pairs = [(n, n + distance) for n in range(200 - distance) if shard(n) == shard(n + distance)]
        met = sum({a, b} <= set(batch) for a, b in pairs for batch in batches)
        assert odds == pytest.approx(met / (len(pairs) * (size - 1) / 199))
    chi2 = [sum((sum(n // 2 == c for n in batch) - 0.2) ** 2 / 0.2 for c in range(100)) / 99 for batch in batches]
    assert found.class_chi2 == pytest.approx(np.mean(chi2))
    when, again = ([numbers.index(n, first) // size for n in range(200)] for first in (0, 200))
    assert found.epoch_correlation == pytest.approx(np.corrcoef(when, again)[0, 1])


def test_reading_shard_by_shard_is_found_out():
    found = report(lanes=1, window=1)
    assert found.ours.shards_per_batch < 3
    assert found.ours.next_odds > 30
    assert found.ours.largest_displacement == 0
    advice = " / ".join(found.verdict)
    assert "shards per batch 2, by chance 50: raise data.lanes or data.window" in advice
    assert "neighbours of a shard meet in a batch 4" in advice
    assert "were the shards sorted by class" in advice


def test_wider_windows_and_more_lanes_mix_better():
    layouts = [report(lanes=lanes, window=window).ours for lanes, window in ((2, 50), (8, 50), (8, 400))]
    for worse, better in pairwise(layouts):
        assert better.shards_per_batch >= worse.shards_per_batch
        assert better.class_chi2 < worse.class_chi2
    assert layouts[2].next_odds < layouts[1].next_odds / 3


def test_as_many_lanes_as_shards_repeat_the_epoch():
    counts = np.full(300, 40)
    found = report(lanes=300, window=4, counts=counts)
    assert found.ours.epoch_correlation > 0.8
    assert any("correlates by 0.9" in line and "at most 75" in line for line in found.verdict)


def test_more_lanes_than_shards_are_named():
    assert "fewer shards (50) than lanes (64): lower data.lanes, or write more shards" in report(lanes=64).verdict


def test_a_batch_larger_than_the_set_is_named():
    assert report(300, counts=np.array([100, 20])).verdict[0].startswith("a batch of 300 repeats samples, of which")


def test_what_a_sequential_reader_holds_is_lanes_times_window():
    layout = mixing_report(Source(COUNTS, lanes=4, window=300), 250, sample_bytes=1000)
    assert layout.ours.buffered_samples == 1200
    assert layout.ours.buffered_bytes == 1_200_000
    assert report(lanes=4).ours.buffered_samples == 10_000
    assert report().ours.buffered_bytes is None


def test_open_clip_mixes_fewer_shards_than_its_workers_read():
    # 16 readers hold all shards of the set, but a batch comes from two of them.
    found = report(counts=np.full(64, 1000), batch_size=400, ranks=2, workers=8)
    assert found.open_clip.shards_per_batch < 0.2 * found.independent.shards_per_batch
    assert found.open_clip.next_odds > 5
    assert found.open_clip.buffered_samples == 64_000


def test_open_clip_is_left_out_where_it_does_not_run():
    assert report(ranks=8, workers=8).open_clip is None


def test_a_set_of_a_billion_samples_is_judged_from_few_batches():
    found = report(1024, counts=np.full(100_000, 10_000), lanes=64, window=2000)
    assert found.batches == 200
    # 16 samples of a lane span 15/17 of a window on average, and a shard ends in 1 of 10 000 samples.
    assert found.ours.shards_per_batch == pytest.approx(64 * (1 + 2000 * 15 / 17 / 10_000), rel=0.02)


def test_one_sample_is_no_error():
    found = report(1, counts=np.array([1]))
    assert found.ours.shards_per_batch == 1
    assert math.isnan(found.ours.next_odds)
    assert found.verdict == ()


@pytest.mark.parametrize("name", ["global_batch_size", "ranks", "workers"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name.replace('_', ' ')}: 0 must be at least 1"):
        mixing_report(Source(COUNTS), **({"global_batch_size": 8} | {name: 0}))
