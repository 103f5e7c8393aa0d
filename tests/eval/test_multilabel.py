import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from contrastive.errors import ConfigError
from contrastive.eval.bootstrap import Sampling, intervals
from contrastive.eval.embed import Embeddings
from contrastive.eval.multilabel import MultiLabel
from tests.eval.toys import classified, paired, unit


def labelled(images: torch.Tensor, texts: torch.Tensor, sets: list[list[int]]) -> Embeddings:
    embeddings = classified(images, texts, [0] * len(images))
    return replace(
        embeddings, dataset=replace(embeddings.dataset, labels=(), label_sets=tuple(tuple(labels) for labels in sets))
    )


def drawn(images: int = 60, classes: int = 7) -> list[list[int]]:
    """Sets of labels; the last class has no image, and some images no label."""
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(images, classes - 1, generator=generator) < 0.2
    return [row.nonzero().flatten().tolist() for row in present]


def truth(sets: list[list[int]], classes: int) -> np.ndarray:
    table = np.zeros((len(sets), classes), dtype=int)
    for row, labels in zip(table, sets, strict=True):
        row[labels] = 1
    return table


@pytest.fixture
def toy() -> Embeddings:
    return labelled(unit(60, 9, 0), unit(7, 9, 1), drawn())


def test_mean_average_precision_equals_scikit_learn(toy: Embeddings) -> None:
    scores, right = (toy.image_features @ toy.text_features.T).numpy(), truth(drawn(), 7)
    result = MultiLabel()(toy)
    assert result.metrics["mean_average_precision"] == pytest.approx(
        average_precision_score(right[:, :6], scores[:, :6], average="macro"), abs=1e-12
    )
    assert result.metrics["micro_average_precision"] == pytest.approx(
        average_precision_score(right, scores, average="micro"), abs=1e-12
    )


def test_each_class_has_its_own_and_an_empty_one_has_none(toy: Embeddings) -> None:
    scores, right = (toy.image_features @ toy.text_features.T).numpy(), truth(drawn(), 7)
    *rows, empty = MultiLabel()(toy).details["per_class"]
    expected = [average_precision_score(right[:, c], scores[:, c]) for c in range(6)]
    assert [row["average_precision"] for row in rows] == pytest.approx(expected, abs=1e-12)
    assert [row["n"] for row in rows] == right[:, :6].sum(0).tolist()
    assert empty == {"name": "class 6", "n": 0, "average_precision": None}


def test_the_mean_with_empty_classes_as_zero_is_a_loop_over_ranks(toy: Embeddings) -> None:
    scores, right = (toy.image_features @ toy.text_features.T).tolist(), truth(drawn(), 7).tolist()
    total = 0.0
    for c in range(7):
        order = sorted(range(60), key=lambda image: -scores[image][c])
        found, precisions = 0, 0.0
        for place, image in enumerate(order, 1):
            if right[image][c]:
                found += 1
                precisions += found / place
        total += precisions / max(found, 1)
    result = MultiLabel()(toy)
    assert result.details["map_empty_as_zero"] == pytest.approx(total / 7, abs=1e-12)
    assert result.details["map_empty_as_zero"] < result.metrics["mean_average_precision"]


def test_equal_scores_are_one_threshold_as_in_scikit_learn() -> None:
    images, texts, sets = unit(8, 5, 0)[torch.arange(40) % 8], unit(4, 5, 1)[[0, 1, 1, 2]], drawn(40, 5)
    scores, right = (unit(8, 5, 0) @ texts.T)[torch.arange(40) % 8].numpy(), truth(sets, 4)
    result = MultiLabel()(labelled(images, texts, sets))
    assert result.metrics["mean_average_precision"] == pytest.approx(
        average_precision_score(right, scores, average="macro"), abs=1e-12
    )
    assert result.metrics["micro_average_precision"] == pytest.approx(
        average_precision_score(right, scores, average="micro"), abs=1e-12
    )


def test_a_constant_model_scores_the_prevalence() -> None:
    for count in (60, 3, 1000):
        sets = drawn(60) * (count // 60) if count >= 60 else [[0], [0, 1], []]
        images, texts = unit(1, 9, 0).repeat(len(sets), 1), unit(1, 9, 1).repeat(7, 1)
        result = MultiLabel()(labelled(images, texts, sets))
        assert result.metrics == pytest.approx(dict(result.chance), abs=1e-12)


def test_a_perfect_model_scores_one() -> None:
    sets = [[0], [1], [2], [0, 1], []]
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [-1, -1, -1]])
    result = MultiLabel()(labelled(torch.nn.functional.normalize(images, dim=1), torch.eye(3), sets))
    assert set(result.metrics.values()) == {1.0}


def test_estimates_are_scikit_learns_weighted_means(toy: Embeddings) -> None:
    scores, right = (toy.image_features @ toy.text_features.T).numpy(), truth(drawn(), 7)
    random = np.random.default_rng(0)
    weights = np.stack([np.bincount(random.integers(60, size=60), minlength=60) for _ in range(20)]).astype(float)
    expected = []
    for row in weights:
        present = [c for c in range(7) if (right[:, c] * row).sum()]
        expected.append(
            np.mean([average_precision_score(right[:, c], scores[:, c], sample_weight=row) for c in present])
        )
    estimate = MultiLabel()(toy).estimates["mean_average_precision"]
    assert estimate(torch.from_numpy(weights)).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_interval_holds_the_metric_and_large_sets_have_none(toy: Embeddings) -> None:
    result = MultiLabel()(toy)
    low, high = intervals(result.estimates, result.clusters, Sampling(resamples=300))["mean_average_precision"]
    assert low < result.metrics["mean_average_precision"] < high
    assert MultiLabel(max_resampled=60 * 7 - 1)(toy).estimates == {}


def test_chunks_and_order_of_the_images_do_not_matter(toy: Embeddings) -> None:
    whole = MultiLabel()(toy)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    sets = [drawn()[image] for image in order]
    shuffled = MultiLabel(max_scores=50)(labelled(toy.image_features[order], toy.text_features, sets))
    assert shuffled.metrics == pytest.approx(dict(whole.metrics), abs=1e-12)
    assert shuffled.details["similarity"] == whole.details["similarity"]


def test_images_without_a_label_are_counted(toy: Embeddings) -> None:
    counts = MultiLabel()(toy).details["counts"]
    assert counts["images_without_label"] == drawn().count([])
    assert (counts["images"], counts["classes"], counts["empty_classes"]) == (60, 7, 1)
    assert counts["labels_per_image"] == pytest.approx(sum(map(len, drawn())) / 60)


def test_predictions_say_what_each_image_got(toy: Embeddings) -> None:
    table = MultiLabel(max_scores=50)(toy).rows["predictions"]
    assert {len(column) for column in table.values()} == {60}
    top = (toy.image_features @ toy.text_features.T).topk(5)
    assert table["top5"] == top.indices.tolist()
    assert table["labels"] == drawn()


def test_the_gallery_shows_labelled_images_with_all_their_classes(toy: Embeddings) -> None:
    gallery = MultiLabel()(toy).details["gallery"]
    assert gallery
    for entry in gallery:
        labels = drawn()[entry["image_id"]]
        assert entry["truth"] == ", ".join(f"class {label}" for label in labels)
        assert entry["key"] == f"0.tar: s{entry['image_id']}"
        assert all(answer["correct"] == (answer["id"] in labels) for answer in entry["answers"])


def test_details_are_json_without_nan(toy: Embeddings) -> None:
    details = MultiLabel()(toy).details
    assert json.loads(json.dumps(details, allow_nan=False)) == details


@pytest.mark.parametrize("sets", [[], [[], []]])
def test_a_dataset_without_labels_is_refused(sets: list[list[int]]) -> None:
    embeddings = (
        labelled(unit(2, 4, 0), unit(2, 4, 1), sets) if sets else paired(unit(2, 4, 0), unit(2, 4, 1), [[0]] * 2)
    )
    with pytest.raises(
        ConfigError, match="dataset toy: task multilabel needs sets of labels, and its samples have none"
    ):
        MultiLabel()(embeddings)
