from dataclasses import replace

import pytest
import torch

from contrastive.errors import ConfigError
from contrastive.eval.classes import (
    SHOWN_BINS,
    Similarities,
    class_weights,
    expected_hit,
    need_labels,
    score_chunks,
    template_weights,
)
from tests.eval.toys import classified, paired, unit


def test_prompt_ensemble_is_the_renormalised_mean() -> None:
    texts = unit(4, 6, 0)
    weights = class_weights(texts, [(0, 1), (2,), (3, 3)])
    mean = (texts[0] + texts[1]) / 2
    torch.testing.assert_close(weights, torch.stack([mean / mean.norm(), texts[2], texts[3]]))


def test_a_template_alone_averages_the_synonyms_of_a_class() -> None:
    texts = unit(6, 5, 0)
    embeddings = classified(unit(2, 5, 1), texts, [0, 1])
    prompts = ((0, 1, 2, 3), (4, 5))  # two synonyms in both templates; one
    dataset = replace(embeddings.dataset, prompts=prompts, templates=("a {c}", "the {c}"), classnames=("x", "y"))
    first, second = template_weights(texts, dataset)
    torch.testing.assert_close(first, class_weights(texts, [(0, 1), (4,)]))
    torch.testing.assert_close(second, class_weights(texts, [(2, 3), (5,)]))


@pytest.mark.parametrize("max_scores", [1, 7, 10**6])
def test_chunks_are_the_product_whatever_their_size(max_scores: int) -> None:
    images, weights = unit(23, 6, 0), unit(4, 6, 1)[[0, 1, 1, 2, 3]]
    found = torch.empty(23, 5)
    for rows, scores in score_chunks(images, weights, max_scores):
        assert scores.numel() <= max(max_scores, 5)
        found[rows] = scores
    torch.testing.assert_close(found, images @ weights.T)
    assert torch.equal(found[:, 1], found[:, 2])


def test_the_expected_hit_is_the_share_among_level_classes() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.2, 0.9, 0.9], [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
    assert expected_hit(scores, torch.tensor([0, 0, 2, 2])).tolist() == pytest.approx([1 / 2, 0, 1 / 3, 1])


def test_similarities_count_every_pair_once() -> None:
    scores = unit(30, 8, 0) @ unit(7, 8, 1).T
    labels = torch.arange(30) % 7
    similarities = Similarities()
    for rows in (slice(0, 11), slice(11, 30)):
        similarities.add(scores[rows], scores[rows].gather(1, labels[rows, None]))
    details = similarities.as_details()
    edges = details["edges"]
    assert sum(details["positive"]) == 30
    assert sum(details["negative"]) == 30 * 6
    assert len(edges) == len(details["positive"]) + 1 == len(details["negative"]) + 1 <= SHOWN_BINS + 2
    assert edges[0] <= float(scores.min())
    assert float(scores.max()) <= edges[-1]
    for low, high, positive, negative in zip(edges, edges[1:], details["positive"], details["negative"], strict=False):
        assert positive + negative == int(((scores >= low) & (scores < high)).sum())


def test_cosines_that_are_all_the_same_have_a_histogram() -> None:
    similarities = Similarities()
    similarities.add(torch.full((3, 2), 1.0000001), torch.full((3,), 1.0000001))
    details = similarities.as_details()
    assert (sum(details["positive"]), sum(details["negative"])) == (3, 3)


def test_dataset_without_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task zeroshot needs classes, and its samples have no labels"):
        need_labels(paired(unit(2, 4, 0), unit(2, 4, 1), [[0], [1]]).dataset, "zeroshot")
