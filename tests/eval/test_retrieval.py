import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.retrieval import Retrieval
from tests.eval.toys import classified, paired, unit

WAYS = ("image_to_text", "text_to_image")


def recall_by_loop(queries: Tensor, documents: Tensor, positives: list[set[int]], k: int) -> float:
    """Any-of-positives recall in float64, one query at a time."""
    hits = 0
    for query, right in zip(queries.double(), positives, strict=True):
        scores = [float(query @ document) for document in documents.double()]
        first = sorted(range(len(scores)), key=lambda d: -scores[d])[:k]
        hits += bool(right & set(first))
    return hits / len(positives)


def many_to_many() -> tuple[Tensor, Tensor, list[list[int]]]:
    return unit(40, 8, 0), unit(60, 8, 1), [sorted({i % 50, (i * 3) % 50, (i * i) % 50}) for i in range(40)]


def test_recall_equals_a_loop_both_ways() -> None:
    images, texts, captions = many_to_many()
    metrics = Retrieval()(paired(images, texts, captions)).metrics
    asked = sorted({text for group in captions for text in group})
    owners = [{i for i, group in enumerate(captions) if text in group} for text in asked]
    for k in (1, 5, 10):
        assert metrics[f"image_to_text_recall@{k}"] == pytest.approx(
            recall_by_loop(images, texts, list(map(set, captions)), k)
        )
        assert metrics[f"text_to_image_recall@{k}"] == pytest.approx(recall_by_loop(texts[asked], images, owners, k))


def test_perfect_model_with_five_captions_scores_one() -> None:
    images = torch.eye(20)
    texts = torch.nn.functional.normalize(images.repeat_interleave(5, 0) + 0.05 * unit(100, 20, 0), dim=1)
    result = Retrieval()(paired(images, texts, [list(range(5 * i, 5 * i + 5)) for i in range(20)]))
    assert set(result.metrics.values()) == {1.0}
    assert result.details["counts"]["captions_per_image"] == 5
    assert result.details["near_misses"] == []


def test_constant_model_scores_chance() -> None:
    captions = [[i] for i in range(20)]
    result = Retrieval()(paired(unit(1, 4, 0).repeat(20, 1), unit(1, 4, 1).repeat(50, 1), captions))
    for k in (1, 5, 10):
        assert result.metrics[f"image_to_text_recall@{k}"] == pytest.approx(k / 50, abs=1e-12)
        assert result.metrics[f"text_to_image_recall@{k}"] == pytest.approx(k / 20, abs=1e-12)
    assert {name: result.metrics[name] for name in result.chance} == pytest.approx(result.chance, abs=1e-12)
    assert result.metrics.keys() - result.chance.keys() == {f"{way}_median_rank" for way in WAYS}


def test_lookalikes_count_as_right_in_the_tolerant_recall_alone() -> None:
    # image 0 shows A, image 1 alpha, which is drawn alike; the model answers alpha to both
    images, texts = torch.eye(3)[[1, 1, 2]], torch.eye(3)
    result = Retrieval()(paired(images, texts, [[0], [1], [2]], lookalikes={0: {1}, 1: {0}}, recall_k=(1,)))
    assert result.metrics["image_to_text_recall@1"] == pytest.approx(2 / 3)
    assert result.metrics["image_to_text_recall@1_lookalikes"] == 1.0
    assert result.chance["image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert result.chance["image_to_text_recall@1_lookalikes"] == pytest.approx((2 + 2 + 1) / 9)
    first = result.details["gallery"][0]["answers"][0]
    assert (first["text"], first["correct"], first["lookalike"]) == ("text 1", False, True)


def test_without_lookalikes_there_is_no_tolerant_metric() -> None:
    metrics = Retrieval()(paired(unit(3, 4, 0), unit(3, 4, 1), [[0], [1], [2]])).metrics
    assert not [key for key in metrics if "lookalikes" in key]


def test_candidate_without_image_is_an_answer_and_no_query() -> None:
    result = Retrieval()(paired(torch.eye(4)[:2], torch.eye(4), [[0], [1]]))
    assert result.details["counts"]["text_to_image_queries"] == 2
    assert result.details["counts"]["texts"] == 4


def test_order_and_chunks_do_not_matter() -> None:
    images, texts, captions = many_to_many()
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(40, generator=generator).tolist(), torch.randperm(60, generator=generator).tolist()
    new = {text: place for place, text in enumerate(columns)}
    moved = paired(images[rows], texts[columns], [[new[text] for text in captions[row]] for row in rows])
    expected = Retrieval()(paired(images, texts, captions)).metrics
    assert Retrieval()(moved).metrics == pytest.approx(expected, abs=1e-12)
    assert Retrieval(max_scores=100)(moved).metrics == pytest.approx(expected, abs=1e-12)


def test_k_beyond_the_pool_gives_one() -> None:
    result = Retrieval()(paired(unit(3, 4, 0), unit(3, 4, 1), [[0], [1], [2]], recall_k=(50,)))
    for way in WAYS:
        assert result.metrics[f"{way}_recall@50"] == result.chance[f"{way}_recall@50"] == 1.0


def test_details_are_json_and_name_both_directions() -> None:
    details = Retrieval()(paired(*many_to_many())).details
    shown = json.loads(json.dumps(details))["gallery"]
    assert {entry["direction"] for entry in shown} == {"image_to_text", "text_to_image"}
    assert {entry["pick"] for entry in shown} == {"first", "best", "worst"}
    assert all(len(entry["answers"]) == 5 for entry in shown)


def test_dataset_without_captions_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task retrieval needs captions"):
        Retrieval()(classified(unit(2, 4, 0), unit(2, 4, 1), [0, 1]))


def test_ranks_equal_a_loop_both_ways() -> None:
    images, texts, captions = many_to_many()
    metrics = Retrieval()(paired(images, texts, captions)).metrics
    asked = sorted({text for group in captions for text in group})
    owners = [{i for i, group in enumerate(captions) if text in group} for text in asked]
    for way, queries, documents, positives in (
        ("image_to_text", images, texts, [set(group) for group in captions]),
        ("text_to_image", texts[asked], images, owners),
    ):
        ranks = []
        for query, right in zip(queries.double(), positives, strict=True):
            order = (documents.double() @ query).argsort(descending=True).tolist()
            ranks.append(1 + min(order.index(document) for document in right))
        assert metrics[f"{way}_median_rank"] == np.median(ranks)
        assert metrics[f"{way}_mean_rank"] == pytest.approx(np.mean(ranks))
        assert metrics[f"{way}_mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_mean_recall_is_the_mean_of_the_six() -> None:
    result = Retrieval()(paired(*many_to_many()))
    six = [f"{way}_recall@{k}" for way in WAYS for k in (1, 5, 10)]
    assert result.metrics["mean_recall"] == pytest.approx(sum(result.metrics[name] for name in six) / 6)
    assert result.chance["mean_recall"] == pytest.approx(sum(result.chance[name] for name in six) / 6)
    assert "mean_recall" not in Retrieval()(paired(*many_to_many(), recall_k=(1, 5))).metrics


def test_captions_of_equal_text_tie_and_count_as_each_other_in_the_tolerant_recall_alone() -> None:
    # both images have the caption "a", each its own; the model is perfect
    rows = torch.eye(3)
    known = paired(rows[[0, 0, 1]], rows[[0, 1]], [[0], [1], [2]], lookalikes={0: {1}, 1: {0}}, recall_k=(1,))
    dataset = replace(known.dataset, texts=("a", "b"), documents=(0, 0, 1))
    result = Retrieval()(replace(known, dataset=dataset))
    for way in WAYS:
        assert result.metrics[f"{way}_recall@1"] == pytest.approx((0.5 + 0.5 + 1) / 3)
        assert result.metrics[f"{way}_recall@1_lookalikes"] == 1.0
    assert result.details["near_misses"] == []


def test_estimates_are_the_metrics_where_all_images_count_once() -> None:
    result = Retrieval()(paired(*many_to_many()))
    assert result.clusters == 40
    assert result.estimates.keys() == result.metrics.keys()
    for name, value in result.metrics.items():
        assert result.estimates[name](torch.ones(1, 40, dtype=torch.float64)).item() == pytest.approx(value)


def test_an_image_that_is_not_drawn_takes_its_captions_with_it() -> None:
    images, texts = unit(4, 8, 0), unit(8, 8, 1)
    captions = [[0, 1], [2, 3], [4, 5], [6, 7]]
    result = Retrieval()(paired(images, texts, captions))
    found = result.estimates["text_to_image_recall@1"](torch.tensor([[0.0, 0.0, 3.0, 0.0]], dtype=torch.float64))
    hits = result.rows["text_to_image"]["hit@1"]
    assert found.item() == pytest.approx((hits[4] + hits[5]) / 2)


def test_rows_hold_every_query_and_average_to_the_metrics() -> None:
    result = Retrieval()(paired(*many_to_many()))
    for way in WAYS:
        table = result.rows[way]
        assert {len(column) for column in table.values()} == {result.details["counts"][f"{way}_queries"]}
        assert np.mean(table["hit@5"]) == pytest.approx(result.metrics[f"{way}_recall@5"])
        assert np.mean(table["rank"]) == pytest.approx(result.metrics[f"{way}_mean_rank"])
        assert {len(answers) for answers in table["answers"]} == {5}


def test_details_draw_ranks_and_cosines() -> None:
    details = Retrieval()(paired(*many_to_many())).details
    assert details["ranks"].keys() == set(WAYS)
    pairs = sum(len(group) for group in many_to_many()[2])
    assert sum(details["similarity"]["positive"]) == pairs
    assert sum(details["similarity"]["negative"]) == 40 * 60 - pairs


def test_no_figure_is_nan_even_of_a_single_pair() -> None:
    result = Retrieval()(paired(unit(1, 4, 0), unit(1, 4, 1), [[0]]))
    assert set(result.metrics.values()) == {1.0}
    json.dumps(result.details, allow_nan=False)
