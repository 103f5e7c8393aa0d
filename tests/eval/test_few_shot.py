import statistics

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from contrastive.errors import ConfigError
from contrastive.eval.few_shot import FewShot
from tests.eval.probes import CLASSES, learned, ones

SHOTS = (1, 2, 4, 8, 16)


def test_figures_are_the_mean_and_deviation_over_draws() -> None:
    result = FewShot()(learned())
    for shots, one in zip(SHOTS, result.details["few_shot"], strict=True):
        assert one["shots"] == shots
        assert len(one["top1"]) == 5
        assert result.metrics[f"few_shot_top1@{shots}"] == pytest.approx(statistics.mean(one["top1"]))
        assert result.metrics[f"few_shot_top1@{shots}_std"] == pytest.approx(statistics.stdev(one["top1"]))
        assert result.chance[f"few_shot_top1@{shots}"] == pytest.approx(1 / CLASSES)


def test_all_images_of_each_class_are_scikit_learns_fit_of_them() -> None:
    embeddings = learned()
    assert embeddings.train is not None
    known = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000)
    known.fit(embeddings.train.image_features.double().numpy(), embeddings.train.dataset.labels)
    expected = known.score(embeddings.image_features.double().numpy(), embeddings.dataset.labels)
    result = FewShot(shots=(20,))(embeddings)  # the training split has twenty of each
    assert result.metrics["few_shot_top1@20"] == pytest.approx(expected)
    assert result.metrics["few_shot_top1@20_std"] == 0


def test_more_images_are_better_and_draws_differ_but_repeat() -> None:
    result, again = FewShot()(learned(spread=1.5)), FewShot()(learned(spread=1.5))
    assert result.metrics == again.metrics
    assert result.metrics["few_shot_top1@16"] > result.metrics["few_shot_top1@1"]
    assert len(set(result.details["few_shot"][0]["top1"])) > 1


def test_estimates_are_the_metrics_where_all_images_count_once() -> None:
    result = FewShot(shots=(2,), seeds=3)(learned())
    assert result.estimates["few_shot_top1@2"](ones(60)).item() == pytest.approx(result.metrics["few_shot_top1@2"])
    assert "few_shot_top1@2_std" not in result.estimates


def test_a_single_draw_has_no_deviation() -> None:
    metrics = FewShot(shots=(1,), seeds=1)(learned()).metrics
    assert list(metrics) == ["few_shot_top1@1"]
    assert np.isfinite(metrics["few_shot_top1@1"])


def test_a_class_with_too_few_images_is_named() -> None:
    train = [i % CLASSES for i in range(90)] + [0, 1, 2, 4, 5]
    message = r"shots: 16 images of each class are asked for, and class 'class 3' has 15 in train_split 'train' \(1 su"
    with pytest.raises(ConfigError, match=message):
        FewShot()(learned(train=train))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shots: \[0\] and seeds: 5 must be at least 1"):
        FewShot(shots=(0,))
