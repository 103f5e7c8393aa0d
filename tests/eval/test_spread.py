import numpy as np
import pytest
import torch

from contrastive.eval import spread
from contrastive.eval.spread import effective_rank, projection, separability, total, uniformity
from tests.eval.toys import unit


@pytest.mark.parametrize("max_scores", [1, 100, 1 << 23])
def test_uniformity_is_that_of_the_reference_code(max_scores: int) -> None:
    rows = unit(70, 16, 0)
    reference = torch.pdist(rows.double()).pow(2).mul(-2).exp().mean().log().item()
    assert uniformity(rows, 1000, 0, max_scores) == pytest.approx(reference, abs=1e-6)


def test_uniformity_of_equal_rows_is_zero_and_of_spread_ones_about_minus_four() -> None:
    assert uniformity(unit(1, 8, 0).repeat(9, 1), 1000, 0) == pytest.approx(0, abs=1e-6)
    assert uniformity(unit(500, 256, 0), 1000, 0) == pytest.approx(-4, abs=0.1)


def test_uniformity_of_a_sample_is_near_that_of_all_and_always_the_same() -> None:
    rows = unit(2000, 16, 0)
    first = uniformity(rows, 500, 3)
    assert first == uniformity(rows, 500, 3)
    assert first == pytest.approx(uniformity(rows, 2000, 3), abs=0.05)


@pytest.mark.parametrize(("count", "width"), [(400, 16), (9, 16), (17, 16), (2, 5)])
def test_effective_rank_is_the_entropy_of_the_singular_values(count: int, width: int) -> None:
    rows = unit(count, width, 0) * torch.logspace(0, -2, width)
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    values = np.linalg.svd(centred, compute_uv=False)
    shares = values[values > 1e-12] / values[values > 1e-12].sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_effective_rank_of_rows_on_a_line_is_one_and_of_even_axes_their_number() -> None:
    assert effective_rank(torch.linspace(-1, 1, 50)[:, None] * unit(1, 8, 0)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.cat([torch.eye(6), -torch.eye(6)])) == pytest.approx(6)
    assert effective_rank(unit(1, 8, 0).repeat(5, 1)) == 1


def test_separability_counts_the_rows_on_their_side() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, -0.2], [-1.0, 0.0]])
    texts = torch.tensor([[-1.0, 0.0], [-1.0, 0.1]])
    assert separability(images, texts) == pytest.approx((3 / 4 + 1) / 2)
    assert separability(images, images) == 0.5


def test_projection_explains_what_an_svd_of_the_points_explains() -> None:
    images, texts = unit(30, 8, 0), unit(40, 8, 1)
    pairs = torch.tensor([(i, i) for i in range(30)])
    shown = projection(images, texts, pairs, 0)
    points = torch.cat([images, texts[:30]]).double()
    values = torch.linalg.svdvals(points - points.mean(0)).square()
    assert shown["explained"] == pytest.approx((values[:2] / values.sum()).tolist())
    placed = torch.tensor(shown["image"] + shown["text"], dtype=torch.float64)
    torch.testing.assert_close(placed.square().sum(0), values[:2])
    assert shown["pairs"] == [[i, i] for i in range(30)]


def test_projection_shows_at_most_500_pairs_with_their_own_points() -> None:
    shown = projection(unit(900, 4, 0), unit(300, 4, 1), torch.tensor([(i, i // 3) for i in range(900)]), 0)
    assert len(shown["pairs"]) == len(shown["image"]) == 500
    assert {text for _, text in shown["pairs"]} == set(range(len(shown["text"])))


def test_projection_of_a_single_pair_has_points() -> None:
    shown = projection(unit(1, 4, 0), unit(1, 4, 1), torch.tensor([(0, 0)]), 0)
    assert len(shown["image"][0]) == len(shown["text"][0]) == 2
    assert np.isfinite([*shown["image"][0], *shown["text"][0], *shown["explained"]]).all()


def test_a_sum_in_pieces_is_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(100, 8, 0)
    monkeypatch.setattr(spread, "PIECE", 7)
    torch.testing.assert_close(total(rows), rows.double().sum(0))
