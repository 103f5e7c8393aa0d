import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from contrastive.errors import ConfigError
from contrastive.eval.zeroshot import ZeroShot, class_weights
from tests.eval.toys import classified, paired, unit


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_metrics_equal_scikit_learn() -> None:
    images, texts = unit(200, 12, 0), unit(24, 12, 1)
    labels = [i * i % 7 for i in range(200)]  # class 7 and others have no sample
    result = ZeroShot()(classified(images, texts, labels, templates=3))
    weights = torch.stack([texts[3 * c : 3 * c + 3].double().mean(0) for c in range(8)])
    scores = (images.double() @ (weights / weights.norm(dim=1, keepdim=True)).T).numpy()
    for k in (1, 5):
        assert result.metrics[f"top{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(8)))
    predicted = scores.argmax(1)
    assert result.metrics["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result.details["confusion"]["counts"] == confusion_matrix(labels, predicted, labels=range(8)).tolist()
    assert result.details["counts"]["empty_classes"] == 8 - len(set(labels))


def test_prompt_ensemble_is_the_renormalised_mean() -> None:
    texts = unit(4, 6, 0)
    weights = class_weights(texts, [(0, 1), (2,), (3, 3)])
    mean = (texts[0] + texts[1]) / 2
    torch.testing.assert_close(weights, torch.stack([mean / mean.norm(), texts[2], texts[3]]))


def test_constant_model_scores_chance() -> None:
    result = ZeroShot()(
        classified(unit(1, 4, 0).repeat(30, 1), unit(1, 4, 1).repeat(10, 1), [i % 10 for i in range(30)])
    )
    assert result.metrics == pytest.approx({"top1": 0.1, "top5": 0.5, "mean_per_class_recall": 0.1}, abs=1e-12)
    assert result.metrics == pytest.approx(result.chance, abs=1e-12)
    assert result.details["counts"]["tie_rate"] == 1.0


def test_two_classes_of_one_name_share_their_hits() -> None:
    texts = torch.eye(3)[[0, 0, 1]]
    result = ZeroShot()(classified(torch.eye(3)[[0, 0, 1]], texts, [0, 1, 2]))
    assert result.metrics["top1"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_fewer_classes_than_k_gives_one() -> None:
    result = ZeroShot()(classified(unit(6, 4, 0), unit(3, 4, 1), [0, 1, 2, 0, 1, 2]))
    assert result.metrics["top5"] == result.chance["top5"] == 1.0


def test_order_of_samples_and_chunks_do_not_matter() -> None:
    images, texts = unit(50, 8, 0), unit(6, 8, 1)
    labels = [i % 6 for i in range(50)]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)).tolist()
    whole = ZeroShot()(classified(images, texts, labels))
    shuffled = ZeroShot(max_scores=7)(classified(images[order], texts, [labels[i] for i in order]))
    assert shuffled.metrics == pytest.approx(whole.metrics, abs=1e-12)
    assert shuffled.details["confusion"] == whole.details["confusion"]


def test_gallery_shows_the_worst_query_with_its_truth() -> None:
    images = torch.eye(3)[[0, 1, 2, 0]]
    result = ZeroShot()(classified(images, torch.eye(3), [0, 1, 2, 1]))
    worst = next(entry for entry in result.details["gallery"] if entry["pick"] == "worst")
    assert (worst["image_id"], worst["truth"]) == (3, "class 1")
    assert worst["answers"][0] == {"id": 0, "score": 1.0, "correct": False, "text": "class 0"}


def test_dataset_without_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task zeroshot needs classes"):
        ZeroShot()(paired(unit(2, 4, 0), unit(2, 4, 1), [[0], [1]]))
