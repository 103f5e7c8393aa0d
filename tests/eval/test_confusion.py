import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from contrastive.eval.confusion import MAX_CONFUSION, MAX_PAIRS, Confusions


def drawn(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randint(classes - 1, (images,), generator=generator),  # the last class has no image
        torch.randint(1, classes, (images,), generator=generator),  # the first is never predicted
    )


def names(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


def hits(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.zeros(classes, dtype=torch.float64).index_add(0, labels, (labels == predicted).double())


def test_the_matrix_equals_scikit_learn() -> None:
    labels, predicted = drawn(300, 6)
    details = Confusions.of(labels, predicted, 6).as_details(names(6))
    assert details["classes"] == names(6)
    assert details["counts"] == confusion_matrix(labels, predicted, labels=range(6)).tolist()


def test_recall_and_precision_equal_scikit_learn_and_are_none_where_nothing_is_counted() -> None:
    labels, predicted = drawn(300, 6)
    rows = Confusions.of(labels, predicted, 6).per_class(names(6), hits(labels, predicted, 6))
    recall = recall_score(labels, predicted, labels=range(6), average=None, zero_division=0)
    precision = precision_score(labels, predicted, labels=range(6), average=None, zero_division=0)
    assert [row["n"] for row in rows] == torch.bincount(labels, minlength=6).tolist()
    assert [row["recall"] for row in rows][:5] == pytest.approx(recall[:5])
    assert [row["precision"] for row in rows][1:] == pytest.approx(precision[1:])
    assert rows[5]["recall"] is None
    assert rows[0]["precision"] is None


def test_each_class_names_what_it_is_most_often_taken_for() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 2, 2, 1, 1, 1, 0])
    rows = Confusions.of(labels, predicted, 3).per_class(names(3), hits(labels, predicted, 3))
    assert [row["top_confusion"] for row in rows] == [{"name": "class 2", "n": 2}, None, {"name": "class 0", "n": 1}]


def test_pairs_are_the_fullest_wrong_cells() -> None:
    labels, predicted = drawn(2000, 12)
    pairs = Confusions.of(labels, predicted, 12).as_details(names(12))["pairs"]
    counted: dict[tuple[str, str], int] = {}
    for right, wrong in zip(labels.tolist(), predicted.tolist(), strict=True):
        if right != wrong:
            key = names(12)[right], names(12)[wrong]
            counted[key] = counted.get(key, 0) + 1
    assert [pair["n"] for pair in pairs] == sorted(counted.values(), reverse=True)[:MAX_PAIRS]
    assert all(counted[pair["label"], pair["predicted"]] == pair["n"] for pair in pairs)


def test_many_classes_give_pairs_alone() -> None:
    classes = MAX_CONFUSION + 1
    labels, predicted = drawn(500, classes)
    details = Confusions.of(labels, predicted, classes).as_details(names(classes))
    assert (details["classes"], details["counts"], len(details["pairs"])) == ([], [], MAX_PAIRS)
