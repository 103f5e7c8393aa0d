import json
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from contrastive.errors import ConfigError
from contrastive.eval.linear_probe import GRID, LinearProbe, bracket_search
from tests.eval.probes import CLASSES, learned, ones

VAL = [i % CLASSES for i in range(60)]


def test_a_fixed_strength_gives_scikit_learns_accuracy() -> None:
    embeddings = learned()
    assert embeddings.train is not None
    known = LogisticRegression(C=2.0, tol=1e-8, max_iter=10_000)
    known.fit(embeddings.train.image_features.double().numpy(), embeddings.train.dataset.labels)
    expected = known.score(embeddings.image_features.double().numpy(), embeddings.dataset.labels)
    assert LinearProbe(strength=0.5)(embeddings).metrics["probe_top1"] == pytest.approx(expected)


def test_the_strength_is_the_best_of_its_curve_on_the_val_split() -> None:
    embeddings = learned(val=VAL)
    result = LinearProbe()(embeddings)
    curve, chosen = result.details["probe"]["curve"], result.details["counts"]["strength"]
    best = max(curve, key=lambda one: (one["val_top1"], -one["val_loss"]))
    assert chosen == best["strength"]
    assert [one["strength"] for one in curve] == sorted(one["strength"] for one in curve)
    assert embeddings.train is not None
    assert embeddings.val is not None
    known = LogisticRegression(C=1 / chosen, tol=1e-8, max_iter=10_000)
    known.fit(embeddings.train.image_features.double().numpy(), embeddings.train.dataset.labels)
    found = known.score(embeddings.val.image_features.double().numpy(), embeddings.val.dataset.labels)
    assert best["val_top1"] == pytest.approx(found)


def test_the_last_fit_is_on_both_splits() -> None:
    embeddings = learned(val=VAL)
    result = LinearProbe()(embeddings)
    assert embeddings.train is not None
    assert embeddings.val is not None
    features = torch.cat([embeddings.train.image_features, embeddings.val.image_features]).double().numpy()
    labels = [*embeddings.train.dataset.labels, *embeddings.val.dataset.labels]
    known = LogisticRegression(C=1 / result.details["counts"]["strength"], tol=1e-8, max_iter=10_000)
    expected = known.fit(features, labels).score(embeddings.image_features.double().numpy(), embeddings.dataset.labels)
    assert result.metrics["probe_top1"] == pytest.approx(expected)


def test_without_a_val_split_a_tenth_of_each_class_is_held_out_and_always_the_same() -> None:
    first, again = LinearProbe()(learned()), LinearProbe()(learned())
    other = LinearProbe(seed=1)(learned())
    assert first.details == again.details
    assert first.details["probe"]["curve"] != other.details["probe"]["curve"]
    shares = {round(one["val_top1"] * 2 * CLASSES, 9) % 1 for one in first.details["probe"]["curve"]}
    assert shares == {0.0}  # two of each class of twenty


def test_perfect_features_are_told_apart_and_all_is_json() -> None:
    result = LinearProbe()(learned(spread=0.1))
    assert result.metrics["probe_top1"] == result.metrics["probe_mean_per_class_recall"] == 1.0
    json.dumps(result.details, allow_nan=False)
    assert set(result.rows["probe_predictions"]["hit1"]) == {1.0}


def test_estimates_and_rows_are_those_of_the_metrics() -> None:
    result = LinearProbe(strength=1.0)(learned())
    for name, value in result.metrics.items():
        assert result.estimates[name](ones(60)).item() == pytest.approx(value)
    table = result.rows["probe_predictions"]
    right = [label == found for label, found in zip(table["label"], table["predicted"], strict=True)]
    assert sum(right) / 60 == pytest.approx(result.metrics["probe_top1"])
    assert result.chance["probe_top1"] == pytest.approx(1 / CLASSES)


def test_order_of_training_images_and_chunks_do_not_matter() -> None:
    embeddings = learned()
    assert embeddings.train is not None
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    labels = tuple(embeddings.train.dataset.labels[i] for i in order.tolist())
    train = replace(
        embeddings.train,
        image_features=embeddings.train.image_features[order],
        dataset=replace(embeddings.train.dataset, labels=labels),
    )
    moved = LinearProbe(strength=0.1, max_scores=7)(replace(embeddings, train=train))
    assert moved.metrics == pytest.approx(LinearProbe(strength=0.1)(embeddings).metrics)


@pytest.mark.parametrize("peak", [0, 5, 41, 48, 90, 96])
def test_the_search_finds_a_single_peak_in_few_looks(peak: int) -> None:
    looks = []

    def quality(step: int) -> float:
        looks.append(step)
        return -abs(step - peak)

    assert bracket_search(quality) == peak
    assert len(looks) == len(set(looks)) <= 15


def test_the_grid_has_eight_steps_a_decade_from_a_millionth_to_a_million() -> None:
    assert len(GRID) == 97
    assert (GRID[0], GRID[48], GRID[-1]) == pytest.approx((1e-6, 1, 1e6))
    assert GRID[9] / GRID[1] == pytest.approx(10)


def test_nothing_to_hold_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task linear_probe can hold out no training image: set val_spl"):
        LinearProbe()(learned(train=list(range(CLASSES))))


def test_a_strength_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength: 0\.0 must be above 0"):
        LinearProbe(strength=0.0)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="device: 'tpu' is not here; write cpu"):
        LinearProbe(device="tpu")
