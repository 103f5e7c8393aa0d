import itertools
import math
import random

import pytest
import torch

from contrastive.eval.ranking import (
    BLOCK,
    Ranks,
    chance_recall,
    expected_hits,
    highest,
    random_ranks,
    rank,
    search,
)
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
    assert torch.equal(found.expected, 1 + found.better.double())


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


def test_hits_of_many_ties_are_exact_however_long_the_product_is() -> None:
    # 1 - C(ties, k) / C(ties + level, k) in whole numbers
    for ties, level, k in ((4000, 3, 900), (4000, 900, 3), (50, 50, 50), (3, 2, 5)):
        found = expected_hits(torch.tensor([0]), torch.tensor([ties]), torch.tensor([level]), k).item()
        exact = 1 - math.comb(ties, k) / math.comb(ties + level, k)
        assert found == pytest.approx(exact, abs=1e-12)


def reciprocal_by_drawing(better: int, ties: int, level: int) -> float:
    """Mean of 1 / rank of the first positive over all places that the positives can have among their equals."""
    places = list(itertools.combinations(range(ties + level), level))
    return sum(1 / (better + 1 + min(chosen)) for chosen in places) / len(places)


@pytest.mark.parametrize("counts", [(0, 0, 1), (3, 0, 2), (0, 4, 1), (2, 3, 2), (5, 1, 4), (0, 6, 3)])
def test_reciprocal_rank_is_the_mean_over_all_orders_of_the_ties(counts: tuple[int, int, int]) -> None:
    columns = [torch.tensor([count, count]) for count in counts]
    found = Ranks(*columns, torch.zeros(2)).reciprocal
    assert found.tolist() == pytest.approx([reciprocal_by_drawing(*counts)] * 2, abs=1e-12)


def test_random_ranks_are_those_of_a_constant_model() -> None:
    positives = [[0, 3], [5], [1, 2, 4]]
    constant = rank(unit(1, 4, 0).repeat(3, 1), unit(1, 4, 1).repeat(9, 1), positives)
    expected = random_ranks(positives, 9)
    assert torch.equal(constant.expected, expected.expected)
    assert torch.equal(constant.reciprocal, expected.reciprocal)


def test_some_ranks_can_be_replaced() -> None:
    documents, positives = unit(20, 8, 1), [[q] for q in range(9)]
    queries = unit(9, 8, 0)
    wider = [[0], [1, 12], *positives[2:7], [7, 0, 3], [8]]
    again = rank(queries[[1, 7]], documents, [wider[1], wider[7]])
    found = rank(queries, documents, positives).replaced(torch.tensor([1, 7]), again)
    assert torch.equal(found.expected, rank(queries, documents, wider).expected)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("columns", [5, BLOCK * 4, BLOCK * 40 + 17])
def test_highest_are_those_of_a_sort(columns: int, k: int) -> None:
    if k > columns:
        return
    scores = unit(7, columns, 0)
    scores[3] = scores[3].round(decimals=1)  # many ties
    values, places = highest(scores, k)
    assert torch.equal(values, scores.sort(1, descending=True).values[:, :k])
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("max_scores", [1, 700, 1 << 23])
def test_search_ranks_as_rank_and_finds_the_highest(max_scores: int) -> None:
    queries, documents = unit(30, 8, 0), unit(300, 8, 1)
    generator = random.Random(0)
    positives = [sorted(generator.sample(range(300), generator.randint(1, 7))) for _ in range(30)]
    found, plain = search(queries, documents, positives, max_scores), rank(queries, documents, positives)
    assert torch.equal(found.ranks.better, plain.better)
    scores = queries.double() @ documents.double().T
    order = scores.argsort(1, descending=True)
    assert torch.equal(found.documents, order[:, :5])
    torch.testing.assert_close(found.scores.double(), scores.gather(1, order[:, :5]), atol=1e-6, rtol=0)
    wrong = [next(d for d in row if d not in positives[q]) for q, row in enumerate(order.tolist())]
    assert found.wrong.tolist() == wrong


def test_of_equal_documents_search_names_the_first() -> None:
    documents = unit(6, 4, 0)[[0, 1, 0, 2, 1, 0]]
    found = search(documents[[1, 0]], documents, [[4], [0, 2, 5]])
    assert found.documents[:, 0].tolist() == [1, 0]
    assert found.documents.shape == (2, 3)  # three distinct ones
    assert found.wrong[0].item() == 1  # its equal is right, itself is not


def test_where_everything_is_right_there_is_no_wrong_document() -> None:
    found = search(unit(2, 4, 0), unit(2, 4, 1), [[0, 1], [0]])
    assert found.wrong.tolist() == [-1, 1]
    assert found.wrong_score[0].isnan()
