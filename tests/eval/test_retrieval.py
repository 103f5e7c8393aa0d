import json

import pytest
import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.retrieval import Retrieval
from tests.eval.toys import classified, paired, unit


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


def test_constant_model_scores_chance() -> None:
    captions = [[i] for i in range(20)]
    result = Retrieval()(paired(unit(1, 4, 0).repeat(20, 1), unit(1, 4, 1).repeat(50, 1), captions))
    for k in (1, 5, 10):
        assert result.metrics[f"image_to_text_recall@{k}"] == pytest.approx(k / 50, abs=1e-12)
        assert result.metrics[f"text_to_image_recall@{k}"] == pytest.approx(k / 20, abs=1e-12)
    assert result.metrics == pytest.approx(result.chance, abs=1e-12)


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
    assert set(result.metrics.values()) == set(result.chance.values()) == {1.0}


def test_details_are_json_and_name_both_directions() -> None:
    details = Retrieval()(paired(*many_to_many())).details
    shown = json.loads(json.dumps(details))["gallery"]
    assert {entry["direction"] for entry in shown} == {"image_to_text", "text_to_image"}
    assert {entry["pick"] for entry in shown} == {"first", "best", "worst"}
    assert all(len(entry["answers"]) == 5 for entry in shown)


def test_dataset_without_captions_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task retrieval needs captions"):
        Retrieval()(classified(unit(2, 4, 0), unit(2, 4, 1), [0, 1]))
