import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from contrastive.eval.neighbours import NEIGHBOURS, look, skewness
from tests.eval.toys import unit


@pytest.mark.parametrize("max_scores", [1, 500, 1 << 23])
def test_occurrences_are_those_of_scikit_learns_neighbours(max_scores: int) -> None:
    queries, documents = unit(60, 8, 0), unit(400, 8, 1)
    known = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(documents.numpy())
    nearest = torch.from_numpy(known.kneighbors(queries.numpy(), return_distance=False))
    found = look(queries, documents, None, max_scores)
    assert torch.equal(found.found, torch.bincount(nearest.flatten(), minlength=400))
    assert len(found.log_sum) == 0


@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_log_sums_are_those_of_float64(scale: float) -> None:
    queries, documents = unit(60, 8, 0), unit(400, 8, 1)
    expected = (scale * queries.double() @ documents.double().T).logsumexp(1)
    torch.testing.assert_close(look(queries, documents, scale, 999).log_sum, expected, atol=1e-6 * scale, rtol=1e-6)


def test_log_sum_of_chosen_logits_is_by_query() -> None:
    found = look(unit(3, 4, 0), unit(5, 4, 1), 2.0)
    logits = torch.tensor([1.0, 2.0, 800.0], dtype=torch.float64)
    sums = found.log_sum_of(torch.tensor([0, 0, 2]), logits)
    assert sums[0].item() == pytest.approx(logits[:2].logsumexp(0).item())
    assert sums[1].item() == -torch.inf
    assert sums[2].item() == pytest.approx(800)


def test_skewness_is_the_third_standardised_moment() -> None:
    counts = torch.tensor([0, 0, 1, 1, 2, 20])
    values = counts.double()
    z = (values - values.mean()) / values.std(correction=0)
    assert skewness(counts) == pytest.approx(z.pow(3).mean().item())
    assert skewness(torch.full((4,), 3)) == 0.0
