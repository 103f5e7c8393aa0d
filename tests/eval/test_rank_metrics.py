import numpy as np
import pytest
import torch

from contrastive.eval.bootstrap import Mean
from contrastive.eval.rank_metrics import Average, Figures, Median, add_ranks, rank_curve
from contrastive.eval.ranking import Ranks, rank, search
from tests.eval.toys import unit


@pytest.mark.parametrize("queries", [1, 2, 7, 10])
def test_median_under_equal_weights_is_numpys(queries: int) -> None:
    values = torch.rand(queries, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = Median(values, torch.arange(queries))
    assert estimate(torch.ones(2, queries, dtype=torch.float64)).tolist() == [np.median(values.numpy())] * 2


def test_median_counts_a_query_as_often_as_its_image_is_drawn() -> None:
    generator = np.random.default_rng(0)
    values, cluster = generator.random(60), generator.integers(0, 9, 60)
    weights = generator.integers(0, 4, (20, 9))
    found = Median(torch.tensor(values), torch.tensor(cluster))(torch.tensor(weights, dtype=torch.float64))
    for row, median in zip(weights, found.tolist(), strict=True):
        assert median == np.median(np.repeat(values, row[cluster]))


def test_median_in_slices_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = Median(torch.arange(30.0), torch.arange(30) % 5)
    weights = torch.rand(11, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = estimate(weights)
    monkeypatch.setattr("contrastive.eval.rank_metrics.SLICE", 1)
    assert torch.equal(estimate(weights), whole)


def test_average_is_the_mean_of_its_estimates() -> None:
    parts = [Mean(torch.tensor([0.0, 1.0])), Mean(torch.tensor([1.0, 1.0]))]
    assert Average(parts)(torch.ones(1, 2, dtype=torch.float64)).tolist() == [0.75]


def test_every_estimate_is_its_metric_where_all_weights_are_one() -> None:
    figures, positives = Figures(), [[q, (q + 3) % 50] for q in range(40)]
    found = search(unit(40, 8, 0), unit(50, 8, 1), positives)
    add_ranks(figures, "way", found, positives, 50, torch.arange(40) // 2)
    for name, value in figures.metrics.items():
        assert figures.estimates[name](torch.ones(1, 20, dtype=torch.float64)).item() == pytest.approx(value)


def test_ranks_of_chance_are_those_of_a_random_order() -> None:
    figures, positives = Figures(), [[0], [1, 2]]
    constant = search(unit(1, 4, 0).repeat(2, 1), unit(1, 4, 1).repeat(5, 1), positives)
    add_ranks(figures, "way", constant, positives, 5, torch.arange(2))
    assert figures.chance["way_mean_rank"] == pytest.approx((6 / 2 + 6 / 3) / 2)
    assert figures.chance["way_mrr"] == pytest.approx(((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5 + 0.64166666667) / 2)
    assert {name: figures.metrics[name] for name in figures.chance} == pytest.approx(figures.chance)


def test_curve_rises_to_one_and_holds_the_recalls() -> None:
    found = rank(unit(40, 8, 0), unit(500, 8, 1), [[q] for q in range(40)])
    curve = rank_curve(found, 500)
    assert curve["k"][:3] == [1, 2, 3]
    assert curve["share"] == sorted(curve["share"])
    assert curve["share"][-1] == 1
    assert dict(zip(curve["k"], curve["share"], strict=True))[10] == found.hits(10).mean().item()


def test_curve_ends_where_all_is_found() -> None:
    zero, one = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    assert rank_curve(Ranks(zero, zero, one, torch.zeros(3)), 1000) == {"k": [1], "share": [1.0]}
