import itertools

import pytest
import torch

from contrastive.eval.ranking import Ranks, chance_recall, expected_hits, rank
from tests.eval.toys import unit


def hits_by_all_orders(scores: list[float], positives: set[int], k: int) -> float:
    """Mean over every order that sorts the scores, by trying them all."""
    orders = itertools.permutations(range(len(scores)))
    sorting = [order for order in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))]
    hits = [not positives.isdisjoint(order[:k]) for order in sorting]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("positives", [{0}, {2}, {4}, {0, 5}, {1, 2, 4}, {0, 1}, {0, 1, 3}, {2, 4}])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 9])
def test_ties_count_as_the_mean_over_their_orders(positives: set[int], k: int) -> None:
    scores = [0.5, 0.5, 0.25, 0.5, 0.25, 0.0]
    documents = torch.tensor(scores)[:, None]
    found = rank(torch.ones(1, 1), documents, [sorted(positives)])
    assert found.hits(k).item() == pytest.approx(hits_by_all_orders(scores, positives, k), abs=1e-12)


def test_ranks_equal_a_float64_loop() -> None:
    queries, documents = unit(40, 8, 0), unit(70, 8, 1)
    positives = [[q, (q * 7 + 3) % 70] for q in range(40)]
    found = rank(queries, documents, positives)
    for q in range(40):
        scores = (queries[q].double() * documents.double()).sum(1)
        best = max(scores[p].item() for p in positives[q])
        assert found.better[q].item() == sum(s > best for s in scores.tolist())
    assert found.ties.sum() == 0
    assert torch.equal(found.expected, 1.0 + found.better)


def test_chunks_do_not_change_the_ranks() -> None:
    queries, documents = unit(33, 8, 0), unit(20, 8, 1)
    positives = [[q % 20] for q in range(33)]
    whole, rows = rank(queries, documents, positives), rank(queries, documents, positives, max_scores=1)
    for k in (1, 5):
        assert torch.equal(whole.hits(k), rows.hits(k))


def test_equal_documents_always_tie() -> None:
    # one query a chunk: a product with a single row is where equal columns were seen to round differently
    documents = unit(101, 512, 0).repeat(3, 1)
    found = rank(unit(101, 512, 1), documents, [[q] for q in range(101)], max_scores=1)
    assert found.ties.tolist() == [2] * 101
    assert found.tie_rate == 1.0


def test_all_documents_equal_gives_chance() -> None:
    found = rank(unit(9, 4, 0), unit(1, 4, 1).repeat(11, 1), [[q] for q in range(9)])
    for k in (1, 5, 10, 11, 50):
        assert found.hits(k).tolist() == pytest.approx([min(1.0, k / 11)] * 9, abs=1e-12)


def test_expected_rank_of_ties() -> None:
    found = Ranks(torch.tensor([2]), torch.tensor([3]), torch.tensor([1]), torch.tensor([0.0]))
    assert found.expected.tolist() == [4.5]


def test_chance_follows_the_number_of_positives() -> None:
    assert chance_recall([[0], [1]], 10, 5) == pytest.approx(0.5)
    assert chance_recall([[0, 1]], 4, 2) == pytest.approx(1 - 1 / 6)
    assert chance_recall([[0]], 3, 10) == pytest.approx(1.0)


def test_no_place_left_is_no_hit() -> None:
    zero, two = torch.tensor([0]), torch.tensor([2])
    assert expected_hits(two, zero, torch.tensor([1]), 2).item() == 0.0
