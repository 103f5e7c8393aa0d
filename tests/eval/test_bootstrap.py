import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.eval.bootstrap import Mean, Sampling, compare, intervals


def drawn(clusters: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Weights as the module draws them, by themselves."""
    random = np.random.default_rng(seed)
    return np.stack(
        [np.bincount(random.integers(clusters, size=clusters), minlength=clusters) for _ in range(resamples)]
    )


def repeated(values: Tensor, cluster: Tensor, weights: np.ndarray) -> list[float]:
    """Values of each query as often as its cluster is drawn."""
    return [v for v, c in zip(values.tolist(), cluster.tolist(), strict=True) for _ in range(int(weights[c]))]


def test_a_mean_is_that_of_the_queries_of_the_drawn_clusters():
    values, cluster = torch.rand(50), torch.arange(50) % 20
    weights = drawn(20, 7)
    found = Mean(values, cluster)(torch.from_numpy(weights).double())
    expected = [np.mean(repeated(values.double(), cluster, row)) for row in weights]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_macro_mean_is_that_of_the_groups_that_were_drawn():
    values, group, cluster = torch.rand(30), torch.arange(30) % 9, torch.arange(30)
    weights = drawn(30, 11)
    found = Mean(values, cluster, group)(torch.from_numpy(weights).double())
    expected = []
    for row in weights:
        means = [np.mean(x) for g in range(9) if (x := repeated(values[group == g].double(), cluster[group == g], row))]
        expected.append(np.mean(means))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_with_equal_weights_it_is_the_metric():
    values, group = torch.rand(40), torch.arange(40) % 3
    one = torch.ones(1, 40, dtype=torch.float64)
    assert float(Mean(values)(one)) == pytest.approx(float(values.double().mean()), abs=1e-12)
    expected = np.mean([values[group == g].double().mean() for g in range(3)])
    assert float(Mean(values, group=group)(one)) == pytest.approx(expected, abs=1e-12)


def test_clusters_behind_the_last_query_do_not_matter():
    values, cluster = torch.rand(5), torch.tensor([0, 1, 1, 3, 3])
    weights = torch.rand(4, 9, dtype=torch.float64)
    torch.testing.assert_close(Mean(values, cluster)(weights), Mean(values, cluster)(weights[:, :4]))


def test_an_interval_is_that_of_the_normal_distribution_where_there_is_much():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (low, high), error = intervals({"mean": Mean(values)}, 4000)["mean"], float(values.std() / 4000**0.5)
    assert low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.1 * error)


class Largest:
    """A metric that resampling can only lower."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.double()

    def __call__(self, weights: Tensor) -> Tensor:
        return torch.where(weights > 0, self.values, -torch.inf).max(1).values


def test_an_interval_is_moved_by_a_large_bias_alone():
    values = torch.arange(40.0)
    low, high = intervals({"largest": Largest(values)}, 40)["largest"]
    assert low < 39 < high, "of the percentiles themselves, none is above the value"
    median = torch.rand(101).lt(0.3).double()
    assert set(intervals({"median": Median(median)}, 101)["median"]) <= {0.0, 1.0}


def test_the_interval_of_a_share_stays_one_where_classes_vanish_in_resamples():
    values, group = torch.zeros(60), torch.arange(60) % 50
    values[:3] = 1
    low, high = intervals({"recall": Mean(values, group=group)}, 60)["recall"]
    assert 0 <= low < high <= 1


class Median:
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, weights: Tensor) -> Tensor:
        return torch.stack([self.values.repeat_interleave(row.long()).median() for row in weights])


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator, covered = torch.Generator().manual_seed(1), 0
    for seed in range(300):
        values = torch.rand(200, generator=generator).lt(0.3).double()
        low, high = intervals({"hits": Mean(values)}, 200, Sampling(resamples=300, seed=seed))["hits"]
        covered += low <= 0.3 <= high
    assert 0.91 <= covered / 300 <= 0.98  # 95 % within three standard errors of 300 trials, and a little below it


def test_five_equal_captions_of_an_image_are_one_observation():
    hits = torch.rand(200, generator=torch.Generator().manual_seed(2)).lt(0.4).double()
    alone = intervals({"r": Mean(hits)}, 200)["r"]
    five = intervals({"r": Mean(hits.repeat_interleave(5), torch.arange(200).repeat_interleave(5))}, 200)["r"]
    assert five == pytest.approx(alone, abs=1e-12)
    wrong = intervals({"r": Mean(hits.repeat_interleave(5))}, 1000)["r"]
    assert wrong[1] - wrong[0] < 0.6 * (alone[1] - alone[0])


def test_the_draws_depend_on_the_seed_alone_and_not_on_the_memory(monkeypatch: pytest.MonkeyPatch):
    values = torch.rand(100, dtype=torch.float64)
    whole = intervals({"r": Mean(values)}, 100)
    monkeypatch.setattr("contrastive.eval.bootstrap.MAX_WEIGHTS", 700)
    assert intervals({"r": Mean(values)}, 100)["r"] == pytest.approx(whole["r"], abs=1e-12)
    assert intervals({"r": Mean(values)}, 100, Sampling(seed=1)) != whole


def test_a_model_against_itself_differs_by_nothing():
    hits = torch.rand(100).lt(0.5).double()
    assert compare({"r": Mean(hits)}, {"r": Mean(hits)}, 100)["r"] == (0, 0, 0, 1)


def test_a_comparison_is_paired():
    generator = torch.Generator().manual_seed(3)
    hits = torch.rand(500, generator=generator).lt(0.5).double()
    better = hits.clone()
    better[hits.eq(0).nonzero()[:15]] = 1  # 3 points, on top of the same images
    delta, low, high, p = compare({"r": Mean(better)}, {"r": Mean(hits)}, 500)["r"]
    assert delta == pytest.approx(0.03)
    assert 0 < low < 0.03 < high
    assert p < 0.01
    interval = intervals({"r": Mean(hits)}, 500)["r"]
    assert interval[0] < 0.5 * (interval[0] + interval[1]) + 0.03 < interval[1], "unpaired, it would not be seen"


def test_only_metrics_that_both_have_are_compared():
    a, b = Mean(torch.rand(9)), Mean(torch.rand(9))
    assert list(compare({"x": a, "y": a}, {"y": b, "z": b}, 9)) == ["y"]
