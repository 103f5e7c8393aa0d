import itertools
import random

import pytest
import torch

from contrastive.eval.precision import chance_precision
from contrastive.eval.ranking import Ranking, search
from tests.eval.toys import unit


def by_all_orders(scores: list[float], positives: set[int]) -> tuple[float, float]:
    """mAP@R and R-precision, the mean over every order that sorts the scores, by trying them all."""
    orders = itertools.permutations(range(len(scores)))
    sorting = [order for order in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))]
    size, gain, share = len(positives), 0.0, 0.0
    for order in sorting:
        right = [document in positives for document in order[:size]]
        gain += sum(sum(right[: i + 1]) / (i + 1) for i in range(size) if right[i]) / size
        share += sum(right) / size
    return gain / len(sorting), share / len(sorting)


def on_a_line(scores: list[float], positives: set[int], max_scores: int = 1 << 23) -> Ranking:
    return search(torch.ones(1, 1), torch.tensor(scores)[:, None], [sorted(positives)], max_scores)


@pytest.mark.parametrize("positives", [{0}, {4}, {0, 5}, {1, 2, 4}, {0, 1, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5}])
@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.25, 0.5, 0.25, 0.0], [0.5] * 6, [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
def test_ties_count_as_the_mean_over_their_orders(scores: list[float], positives: set[int]) -> None:
    found = on_a_line(scores, positives)
    assert (found.map_at_r.item(), found.r_precision.item()) == pytest.approx(by_all_orders(scores, positives))


def test_ties_of_unequal_documents_go_on_behind_what_is_looked_at() -> None:
    # The query sees the first coordinate alone: ten different documents are level with it, of which one is right.
    documents = torch.cat([torch.full((10, 1), 0.5), torch.arange(10.0)[:, None]], 1)
    found = search(torch.tensor([[1.0, 0.0]]), documents, [[7]])
    assert found.map_at_r.item() == pytest.approx(0.1)
    assert found.ranks.hits(1).item() == pytest.approx(0.1)
    two = search(torch.tensor([[1.0, 0.0]]), documents, [[7, 2]])
    assert (two.map_at_r.item(), two.r_precision.item()) == pytest.approx(chance_precision([[0, 1]], 10))


def test_without_ties_it_is_the_loop_of_the_paper() -> None:
    queries, documents = unit(25, 8, 0), unit(200, 8, 1)
    generator = random.Random(0)
    positives = [set(generator.sample(range(200), generator.choice([1, 2, 5, 40]))) for _ in range(25)]
    found = search(queries, documents, [sorted(group) for group in positives], max_scores=999)
    for query, right in enumerate(positives):
        scores = (queries[query].double() * documents.double()).sum(1)
        order = scores.argsort(descending=True).tolist()[: len(right)]
        hits = [document in right for document in order]
        gain = sum(sum(hits[: i + 1]) / (i + 1) for i in range(len(right)) if hits[i]) / len(right)
        assert found.map_at_r[query].item() == pytest.approx(gain, abs=1e-12)
        assert found.r_precision[query].item() == pytest.approx(sum(hits) / len(right), abs=1e-12)


def test_a_constant_model_gets_what_chance_gives() -> None:
    positives = [[0], [1, 2, 3], [4, 5, 6, 7, 8, 9]]
    found = search(unit(1, 4, 0).repeat(3, 1), unit(1, 4, 1).repeat(12, 1), positives)
    expected = chance_precision(positives, 12)
    assert (found.map_at_r.mean().item(), found.r_precision.mean().item()) == pytest.approx(expected, abs=1e-12)
    assert expected[1] == pytest.approx((1 / 12 + 3 / 12 + 6 / 12) / 3)


def test_one_right_document_makes_both_the_recall_at_one() -> None:
    found = search(unit(40, 8, 0), unit(50, 8, 1), [[q] for q in range(40)])
    assert torch.equal(found.map_at_r, found.ranks.hits(1))
    assert torch.equal(found.r_precision, found.ranks.hits(1))
