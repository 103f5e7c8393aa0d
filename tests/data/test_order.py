import math
import pickle
import time
from fractions import Fraction

import numpy as np
import pytest

from contrastive.data.order import Draws, Order, Source
from contrastive.errors import ConfigError
from tests.data.order_by_hand import by_hand


def whole(count, **settings):
    return Source(np.array([count]), **settings)


def same(a: Draws, b: Draws) -> bool:
    return all(x.tolist() == y.tolist() for x, y in zip(a, b, strict=True))


def random_source(rng, most=20):
    counts = rng.integers(0, most, rng.integers(1, 9))  # empty shards among them
    counts[rng.integers(len(counts))] += 1
    lanes, window = int(rng.integers(1, 12)), [None, 1, 2, 7, 10_000][rng.integers(5)]
    return Source(counts, [1.0, "0.3", 2.5, 1][rng.integers(4)], lanes, window)


def random_orders(cases, sources=1, replacement=False):
    rng = np.random.default_rng(0)
    for case in range(cases):
        held = [random_source(rng) for _ in range(rng.integers(1, sources + 1))]
        yield Order(held, case, replacement)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_every_epoch_is_a_permutation(count):
    order = Order([whole(count)], seed=5)
    for epoch in range(3):
        number = order.at(np.arange(epoch * count, (epoch + 1) * count)).number
        assert sorted(number.tolist()) == list(range(count))


def test_every_pass_is_a_permutation_on_any_layout():
    for order in random_orders(200):
        count = order.sources[0].samples
        numbers = order.at(np.arange(3 * count)).number.reshape(3, count)
        assert (np.sort(numbers) == np.arange(count)).all()


def test_every_source_of_a_mixture_is_walked_whole_before_it_repeats():
    for order in random_orders(60, sources=4):
        draws, start = order.at(np.arange(11 * order.epoch_samples)), 0
        for s, source in enumerate(order.sources):
            mine = draws.source == s
            numbers, passes = draws.number[mine] - start, len(draws.number[mine]) // source.samples
            for k in range(passes + 1):
                held = numbers[k * source.samples : (k + 1) * source.samples]
                assert len(set(held.tolist())) == len(held)
                assert k == passes or sorted(held.tolist()) == list(range(source.samples))
            assert (draws.occurrence[mine] == np.arange(mine.sum()) // source.samples).all()
            start += source.samples


def test_every_epoch_holds_the_exact_count_of_each_source():
    for order in random_orders(60, sources=4):
        wanted = [max(1, round(Fraction(str(source.weight)) * source.samples)) for source in order.sources]
        sources = order.at(np.arange(5 * order.epoch_samples)).source.reshape(5, order.epoch_samples)
        assert all(np.bincount(epoch, minlength=len(wanted)).tolist() == wanted for epoch in sources)


def test_a_weight_is_the_decimal_number_that_was_written():
    assert Order([whole(1000, weight=0.3), whole(10, weight="2.5")], 0).counts.tolist() == [300, 25]
    assert Order([whole(10**9, weight=0.1)], 0).epoch_samples == 10**8
    assert Order([whole(3, weight=0.01)], 0).epoch_samples == 1


def test_a_mixture_is_even_at_any_moment():
    order = Order([whole(9000), whole(700, weight="0.5"), whole(31, weight=3), whole(2)], 0)
    source = order.at(np.arange(order.epoch_samples)).source
    slots = np.arange(1, order.epoch_samples + 1)
    for s, count in enumerate(order.counts.tolist()):
        assert np.abs(np.cumsum(source == s) - slots * count / order.epoch_samples).max() <= 2


@pytest.mark.parametrize("replacement", [False, True])
def test_a_jump_equals_a_scan(replacement):
    for order in random_orders(25, sources=3, replacement=replacement):
        scanned = order.at(np.arange(4 * order.epoch_samples))
        for p in range(0, 4 * order.epoch_samples, 13):
            assert same(order.at(np.array([p])), Draws(*(part[p : p + 1] for part in scanned)))


def test_positions_may_come_in_any_order():
    order = Order([whole(500, lanes=3, window=20), whole(300, weight=2)], 1)
    positions = np.random.default_rng(1).integers(0, 10**6, 200)
    scattered = order.at(positions)
    assert same(
        scattered, Draws(*(np.concatenate(x) for x in zip(*(order.at(p[None]) for p in positions), strict=True)))
    )


def test_batches_hold_the_same_samples_however_positions_are_cut():
    for order in random_orders(25, sources=3):
        total, rng, first, found = 3 * order.epoch_samples, np.random.default_rng(7), 0, []
        while first < total:  # another batch size every time, as after a resume
            size = min(total - first, int(rng.integers(1, 50)))
            batch = order.batch(first, size)
            assert sorted(batch.number.tolist()) == sorted(order.at(np.arange(first, first + size)).number.tolist())
            found += batch.number.tolist()
            first += size
        assert sorted(found) == sorted(order.at(np.arange(total)).number.tolist())


def test_rows_of_a_batch_are_sorted_by_lane():
    order = Order([whole(500, lanes=4, window=10), whole(500, lanes=3, window=10)], 0)
    batch = order.batch(130, 100)
    assert (np.diff(batch.lane) >= 0).all()
    assert set(batch.lane.tolist()) == set(range(7))
    assert (batch.source == (batch.lane >= 4)).all()


def test_rows_of_a_batch_keep_their_positions_order_without_lanes():
    order = Order([whole(500), whole(100)], 0)
    assert same(order.batch(37, 100), order.at(np.arange(37, 137)))


def test_no_sample_moves_by_a_window():
    rng = np.random.default_rng(3)
    for case in range(100):
        counts, lanes, window = (
            rng.integers(1, 30, rng.integers(1, 9)),
            int(rng.integers(1, 9)),
            int(rng.integers(1, 40)),
        )
        order, count = Order([Source(counts, lanes=lanes, window=window)], case), int(counts.sum())
        moves = order.moves(np.arange(2 * count))
        assert np.abs(moves).max() < window
        assert moves[:count].sum() == 0


def test_a_window_of_one_reads_shard_by_shard():
    counts = np.array([4, 7, 0, 5])
    numbers = Order([Source(counts, window=1)], 2).at(np.arange(16)).number
    shards = np.searchsorted(np.cumsum(counts), numbers, side="right")
    assert (np.diff(shards) != 0).sum() == 2
    assert all((np.diff(numbers[shards == s]) == 1).all() for s in (0, 1, 3))


def test_lanes_do_not_begin_their_blocks_together():
    order = Order([whole(64_000, lanes=64, window=100)], 0)
    moves = order.moves(np.arange(64_000)).reshape(1000, 64)
    # A block ends where the sum of the moves so far is back at nothing.
    ends = np.cumsum(moves, axis=0) == 0
    assert ends[:-1].sum(axis=1).max() < 16


@pytest.mark.parametrize("settings", [{}, {"lanes": 2, "window": 7}, {"lanes": 3}])
def test_the_first_two_samples_are_uniform_over_pairs(settings):
    count, seeds, passes = 20, 20, 500
    pairs = np.zeros((count, count))
    for seed in range(seeds):
        numbers = Order([Source(np.ones(count, np.int64), **settings)], seed).at(np.arange(count * passes)).number
        np.add.at(pairs, tuple(numbers.reshape(passes, count)[:, :2].T), 1)
    expected = seeds * passes / (count * (count - 1))
    chi2 = ((pairs[~np.eye(count, dtype=bool)] - expected) ** 2 / expected).sum()
    assert pairs.trace() == 0
    assert chi2 < 379 + 5 * math.sqrt(2 * 379)


@pytest.mark.parametrize("settings", [{}, {"lanes": 8, "window": 200}, {"lanes": 8}])
def test_epochs_and_seeds_have_their_own_orders(settings):
    source = Source(np.full(500, 20), **settings)
    first, second = (Order([source], 0).at(np.arange(10_000) + epoch * 10_000).number for epoch in (0, 1))
    other = Order([source], 1).at(np.arange(10_000)).number
    for a, b in ((first, second), (first, other), (first, np.arange(10_000))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # of 500 shards whose places are independent: 3 deviations


def test_sources_of_one_mixture_have_their_own_orders():
    draws = Order([whole(1000), whole(1000)], 0).at(np.arange(2000))
    first, second = (draws.number[draws.source == s] - 1000 * s for s in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.12


def test_neighbours_in_the_shards_meet_in_a_batch_as_rarely_as_by_chance():
    count, batch = 20_000, 500
    position = np.empty(count, dtype=np.int64)
    position[Order([whole(count)], seed=3).at(np.arange(count)).number] = np.arange(count)
    met = (position[1:] // batch == position[:-1] // batch).mean()
    assert met == pytest.approx(batch / count, rel=0.25)


def test_draws_with_replacement_are_independent_and_uniform():
    draws = Order([whole(50)], 4, replacement=True).at(np.arange(50_000))
    held = np.bincount(draws.number, minlength=50)
    assert ((held - 1000) ** 2 / 1000).sum() < 49 + 5 * math.sqrt(2 * 49)
    assert draws.occurrence.tolist() == list(range(50_000))
    assert 0.5 < len(set(draws.number[:50].tolist())) / 50 < 0.8  # 1 - 1/e; a permutation has 1


def test_draws_with_replacement_stay_in_their_block():
    source = Source(np.full(10, 100), lanes=4, window=10)
    repeated = Order([source], 4, replacement=True)
    assert np.abs(repeated.moves(np.arange(3000))).max() < 10
    assert len(set(repeated.at(np.arange(1000)).number.tolist())) < 800


@pytest.mark.parametrize("settings", [{}, {"lanes": 128, "window": 4096}])
def test_a_position_far_out_needs_no_walk(settings):
    source = Source(np.full(100_000, 12_800), **settings)
    start = time.process_time()
    batch = Order([source], 0).batch(10**15, 4096)
    assert time.process_time() - start < 10  # a walk would take days
    assert len(set(batch.number.tolist())) == 4096
    assert batch.number.max() < source.samples


def test_a_mixture_far_out_is_exact():
    sources = [whole(10**9, weight=0.7), whole(3 * 10**8, lanes=16, window=1000), whole(12_345, weight=40)]
    order = Order(sources, 0)
    epoch, count = 10**6, 10_000
    first = epoch * order.epoch_samples
    draws = order.at(np.arange(first - count, first + count))
    for s, held in enumerate(order.counts.tolist()):
        drawn = epoch * held + np.arange(-round(count * held / order.epoch_samples), 0)
        occurrences = draws.occurrence[:count][draws.source[:count] == s]
        assert abs(len(occurrences) - len(drawn)) <= 2
        assert occurrences[-1] == (epoch * held - 1) // sources[s].samples


def test_a_thousand_sources_are_mixed():
    order = Order([whole(100 + s, weight=0.5 + s / 1000) for s in range(1000)], 0)
    source = order.at(np.arange(order.epoch_samples)).source
    assert np.bincount(source).tolist() == order.counts.tolist()


def test_an_order_travels_without_its_passes():
    order = Order([Source(np.full(1000, 100), lanes=8, window=50)], 0)
    before = len(pickle.dumps(order))
    first = order.batch(5 * 10**5, 100)
    assert len(pickle.dumps(order)) <= before + 10_000  # the starts of the shards
    assert same(pickle.loads(pickle.dumps(order)).batch(5 * 10**5, 100), first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0}, "a source's weight: 0 must"),
        ({"weight": -1.0}, "a source's weight: -1.0 must"),
        ({"weight": math.inf}, "a source's weight: inf must"),
        ({"weight": "nan"}, "a source's weight: nan must"),
        ({"weight": "much"}, "a source's weight: much must"),
        ({"lanes": 0}, "data.lanes and data.window: 0 and None"),
        ({"window": 0}, "data.lanes and data.window: 1 and 0"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        whole(5, **settings)


def test_no_samples_and_no_sources_are_refused():
    with pytest.raises(ConfigError, match="no samples"):
        Source(np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="names none"):
        Order([], 0)


def test_any_position_equals_the_order_worked_out_by_hand():
    rng = np.random.default_rng(5)
    for order in random_orders(60, sources=3):
        positions = rng.integers(0, 6 * order.epoch_samples, 12)
        draws = order.at(positions)
        for row, p in enumerate(positions.tolist()):
            assert tuple(int(part[row]) for part in draws) == by_hand(order.sources, order.seed, p)


def test_the_order_never_changes_between_versions():
    # A run resumed under another numpy or torch must see the same samples: these are frozen.
    assert Order([whole(100)], 42).at(np.arange(8)).number.tolist() == FROZEN
    assert Order([whole(123_457)], 3).at(np.arange(300_000, 300_004)).number.tolist() == FROZEN_FAR
    lanes = Order([Source(np.full(10, 10), lanes=3, window=8)], 42)
    assert lanes.at(np.arange(98, 106)).number.tolist() == FROZEN_LANES
    mixture = Order([whole(50, weight=0.3), whole(20, weight=2)], 42)
    assert mixture.at(np.arange(50, 58)).number.tolist() == FROZEN_MIXTURE


FROZEN = [15, 58, 38, 95, 99, 81, 30, 59]
FROZEN_FAR = [46932, 49854, 85358, 97796]
FROZEN_LANES = [99, 51, 32, 94, 87, 33, 95, 88]
FROZEN_MIXTURE = [51, 52, 67, 45, 57, 68, 41, 51]
