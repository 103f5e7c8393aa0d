import pytest
import torch

from contrastive.eval.cosines import Cosines, cosines, histogram, quantiles
from tests.eval.toys import unit

PAIRS = torch.tensor([(0, 0), (0, 3), (1, 1), (2, 3)])


def test_positive_and_negative_cosines_are_all_there_are_of_a_small_set() -> None:
    images, texts = unit(3, 8, 0), unit(5, 8, 1)
    found, scores = cosines(images, texts, PAIRS), images @ texts.T
    right = {tuple(pair) for pair in PAIRS.tolist()}
    wrong = [scores[i, t].item() for i in range(3) for t in range(5) if (i, t) not in right]
    torch.testing.assert_close(found.positive, scores[PAIRS[:, 0], PAIRS[:, 1]])
    assert sorted(found.negative.tolist()) == pytest.approx(sorted(wrong))


def test_of_a_large_set_wrong_pairs_are_a_sample_that_is_always_the_same() -> None:
    images, texts = unit(700, 4, 0), unit(2500, 4, 1)
    pairs = torch.tensor([(i, t) for i in range(700) for t in range(i, i + 400)])
    first, second = cosines(images, texts, pairs), cosines(images, texts, pairs)
    assert len(first.positive) == len(pairs)
    assert len(first.negative) < 512 * 2048  # the right ones among the sample are not in it
    assert len(first.negative) == pytest.approx(512 * 2048 * (1 - 400 / 2500), rel=0.02)
    assert torch.equal(first.negative, second.negative)


def test_where_everything_is_a_pair_nothing_is_negative() -> None:
    pairs = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1)])
    found = cosines(unit(2, 4, 0), unit(2, 4, 1), pairs)
    assert len(found.negative) == 0
    assert sum(histogram(found)["negative"]) == 0


def test_histogram_counts_every_cosine_once() -> None:
    found = cosines(unit(30, 8, 0), unit(40, 8, 1), torch.tensor([(i, i) for i in range(30)]))
    shown = histogram(found)
    assert len(shown["edges"]) == len(shown["positive"]) + 1
    assert (sum(shown["positive"]), sum(shown["negative"])) == (30, 30 * 40 - 30)


def test_histogram_of_equal_cosines_has_a_width() -> None:
    shown = histogram(Cosines(torch.full((3,), 0.5), torch.full((4,), 0.5)))
    assert shown["edges"][0] < 0.5 < shown["edges"][-1]
    assert (sum(shown["positive"]), sum(shown["negative"])) == (3, 4)


def test_quantiles_of_a_ramp() -> None:
    found = quantiles(torch.arange(101.0))
    assert found == pytest.approx({"mean": 50, "p5": 5, "p50": 50, "p95": 95})
