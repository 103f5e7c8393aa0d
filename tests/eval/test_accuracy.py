from dataclasses import replace

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from contrastive.errors import ConfigError, DataError
from contrastive.eval.accuracy import accuracy, prediction_rows, splits
from contrastive.eval.ranking import rank
from tests.eval.probes import CLASSES, learned, ones
from tests.eval.toys import paired, unit


def test_classes_are_counted_over_those_that_can_be_learned() -> None:
    train, test, val = splits(learned(train=[1, 1, 4, 4, 5], test=[5, 1, 1], val=[4, 1]), "knn")
    assert train.numbers.tolist() == [1, 4, 5]
    assert train.labels.tolist() == [0, 0, 1, 1, 2]
    assert test.labels.tolist() == [2, 0, 0]
    assert val is not None
    assert val.labels.tolist() == [1, 0]


def test_a_class_that_the_training_split_lacks_is_refused_by_name() -> None:
    message = r"dataset toy: 2 classes of split 'test' \(class 2, class 5\) have no image in train_split 'train'"
    with pytest.raises(DataError, match=message):
        splits(learned(train=[0, 1, 3, 4], test=[0, 2, 5]), "knn")
    with pytest.raises(DataError, match=r"1 classes of split 'val' \(class 2\)"):
        splits(learned(train=[0, 1], test=[0], val=[2]), "knn")


def test_without_a_training_split_the_key_is_named() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task knn has nothing to learn from: set train_split"):
        splits(replace(learned(), train=None), "knn")


def test_a_dataset_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task knn needs classes"):
        splits(paired(unit(2, 4, 0), unit(2, 4, 1), [[0], [1]]), "knn")


def test_figures_are_scikit_learns_and_their_estimates_give_them() -> None:
    _, test, _ = splits(learned(test=[0, 0, 0, 0, 1, 1, 2, 4]), "knn")
    scores = unit(8, CLASSES, 5)
    ranks = rank(scores, torch.eye(CLASSES), [(label,) for label in test.labels.tolist()])
    figures, predicted = accuracy(ranks, test, "x"), scores.argmax(1)
    assert figures.metrics["x_top1"] == pytest.approx(accuracy_score(test.labels, predicted))
    assert figures.metrics["x_mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(test.labels, predicted))
    assert figures.chance["x_top5"] == pytest.approx(5 / CLASSES)
    for name, value in figures.metrics.items():
        assert figures.estimates[name](ones(8)).item() == pytest.approx(value)


def test_rows_name_images_and_the_dataset_s_own_classes() -> None:
    embeddings = learned(train=[1, 4, 5], test=[5, 1])
    _, test, _ = splits(embeddings, "knn")
    ranks = rank(torch.eye(3)[:2], torch.eye(3), [(2,), (0,)])
    rows = prediction_rows(embeddings, test, torch.tensor([0, 1]), ranks)
    assert (rows["label"], rows["predicted"]) == ([5, 1], [1, 4])
    assert {len(column) for column in rows.values()} == {2}
