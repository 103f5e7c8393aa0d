from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from contrastive.errors import ConfigError
from contrastive.eval.knn import NearestNeighbours
from contrastive.eval.suite import score
from tests.eval.probes import CLASSES, learned, ones
from tests.toys import on_ranks


def weights(distances: np.ndarray) -> np.ndarray:
    return np.exp((1 - distances) / 0.07)  # scikit-learn's cosine distance


@pytest.mark.parametrize("k", [1, 3, 20, 120])
def test_votes_are_scikit_learns(k: int) -> None:
    embeddings = learned()
    assert embeddings.train is not None
    known = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute", weights=weights)
    known.fit(embeddings.train.image_features.double().numpy(), embeddings.train.dataset.labels)
    shares = known.predict_proba(embeddings.image_features.double().numpy())
    labels = np.array(embeddings.dataset.labels)
    result = NearestNeighbours(k=k)(embeddings)
    assert result.rows["knn_predictions"]["predicted"] == shares.argmax(1).tolist()
    assert result.metrics["knn_top1"] == pytest.approx((shares.argmax(1) == labels).mean())


def test_classes_without_a_vote_share_the_places_left() -> None:
    embeddings = learned(spread=4.0)
    result = NearestNeighbours(k=1)(embeddings)
    missed = 1 - result.metrics["knn_top1"]
    # One class has the vote; the right one is level with the four others that have none, for four places.
    assert result.metrics["knn_top5"] == pytest.approx(result.metrics["knn_top1"] + missed * 4 / 5)


def test_a_training_set_of_equal_images_gives_chance() -> None:
    embeddings = learned(train=list(range(CLASSES)))
    assert embeddings.train is not None
    embeddings.train.image_features[:] = embeddings.train.image_features[:1].clone()
    result = NearestNeighbours(k=CLASSES)(embeddings)
    assert result.metrics == pytest.approx(result.chance)


@pytest.mark.parametrize("max_scores", [1, 100])
def test_chunks_do_not_matter(max_scores: int) -> None:
    assert NearestNeighbours(max_scores=max_scores)(learned()).metrics == NearestNeighbours()(learned()).metrics


def test_estimates_are_the_metrics_where_all_images_count_once() -> None:
    result = NearestNeighbours()(learned())
    for name, value in result.metrics.items():
        assert result.estimates[name](ones(60)).item() == pytest.approx(value)


def test_a_low_temperature_overflows_nothing() -> None:
    sharp = NearestNeighbours(temperature=1e-4)(learned())
    assert sharp.metrics["knn_top1"] == NearestNeighbours(k=1)(learned()).metrics["knn_top1"]
    assert torch.tensor(list(sharp.metrics.values())).isfinite().all()


def test_more_neighbours_than_training_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task knn: k: 20 neighbours of 6 training images; lower k"):
        NearestNeighbours()(learned(train=list(range(CLASSES))))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="k: 0 must be at least 1"):
        NearestNeighbours(k=0)


def scored_metrics() -> list[dict[str, float]]:
    embeddings = learned(val=[i % CLASSES for i in range(30)])
    tasks = ({"name": "knn"}, {"name": "linear_probe"}, {"name": "few_shot", "shots": [1, 2]}, {"name": "geometry"})
    results = score(replace(embeddings, dataset=replace(embeddings.dataset, tasks=tasks)))
    return [dict(result.metrics) for result in results]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_tasks_give_the_figures_of_one(ranks: int) -> None:
    alone = scored_metrics()
    for found in on_ranks(scored_metrics, ranks):
        for mine, theirs in zip(found, alone, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9)
