import json
import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import nn

from contrastive.errors import ConfigError
from contrastive.eval import zeroshot
from contrastive.eval.classes import class_weights
from contrastive.eval.embed import Embeddings
from contrastive.eval.zeroshot import ZeroShot
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


def sure(templates: int = 1) -> Embeddings:
    """A set whose images lie near their class, some of them nearer to another."""
    texts = unit(6 * templates, 10, 1)
    labels = [i % 6 for i in range(90)]
    centres = torch.stack([texts[c * templates : (c + 1) * templates].mean(0) for c in range(6)])
    images = nn.functional.normalize(centres[labels] + 0.5 * torch.randn(90, 10, generator=seeded(0)), dim=1)
    return classified(images, texts, labels, templates)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_estimates_of_equal_weights_are_the_metrics() -> None:
    result = ZeroShot()(sure())
    assert result.clusters == 90
    plain = torch.ones(1, 90, dtype=torch.float64)
    assert {name: float(estimate(plain)) for name, estimate in result.estimates.items()} == pytest.approx(
        dict(result.metrics), abs=1e-12
    )


def test_an_estimate_under_weights_is_the_metric_of_the_repeated_images() -> None:
    embeddings = sure()
    drawn = torch.randint(90, (90,), generator=seeded(1))
    weights = torch.bincount(drawn, minlength=90).double()[None]
    again = ZeroShot()(
        classified(
            embeddings.image_features[drawn],
            embeddings.text_features,
            [embeddings.dataset.labels[i] for i in drawn.tolist()],
        )
    )
    found = {name: float(estimate(weights)) for name, estimate in ZeroShot()(embeddings).estimates.items()}
    assert found == pytest.approx(dict(again.metrics), abs=1e-12)


def test_each_template_alone_is_a_model_of_one_template() -> None:
    embeddings = sure(templates=3)
    details = ZeroShot()(embeddings).details
    labels = list(embeddings.dataset.labels)
    alone = [
        ZeroShot()(classified(embeddings.image_features, embeddings.text_features[t::3], labels)).metrics["top1"]
        for t in range(3)
    ]
    assert details["templates"] == [
        {"template": f"{{c}} {t}", "top1": pytest.approx(value)} for t, value in enumerate(alone)
    ]
    best = max(range(3), key=alone.__getitem__)
    assert details["ablation"] == {
        "images": 90,
        "ensemble": pytest.approx(ZeroShot()(embeddings).metrics["top1"]),
        "best": f"{{c}} {best}",
        "best_top1": pytest.approx(alone[best]),
    }


def test_a_large_ablation_takes_every_kth_image(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = sure(templates=3)
    with monkeypatch.context() as patch:
        patch.setattr(zeroshot, "MAX_ABLATION", 90 * 6 * 3 // 4)
        details = ZeroShot()(embeddings).details
    part = classified(
        embeddings.image_features[::4], embeddings.text_features, list(embeddings.dataset.labels[::4]), templates=3
    )
    assert details["ablation"]["images"] == 23
    assert details["ablation"]["ensemble"] == pytest.approx(ZeroShot()(part).metrics["top1"])
    assert details["templates"] == ZeroShot()(part).details["templates"]


def test_one_template_prompts_by_class_and_a_refusal_give_no_ablation() -> None:
    assert "templates" not in ZeroShot()(sure()).details
    assert "templates" not in ZeroShot(ablation=False)(sure(templates=3)).details
    by_class = sure(templates=3)
    by_class = replace(by_class, dataset=replace(by_class.dataset, templates=()))
    assert "templates" not in ZeroShot()(by_class).details


def test_near_misses_are_the_smallest_margins_and_the_worst_errors() -> None:
    embeddings = sure()
    weights = class_weights(embeddings.text_features, embeddings.dataset.prompts)
    scores = (embeddings.image_features @ weights.T).tolist()
    margins = {}
    for image, label in enumerate(embeddings.dataset.labels):
        margins[image] = scores[image][label] - max(s for c, s in enumerate(scores[image]) if c != label)
    wrong = sorted((image for image in margins if margins[image] <= 0), key=margins.__getitem__)
    right = sorted((image for image in margins if margins[image] > 0), key=margins.__getitem__)
    assert len(wrong) > 4
    shown: dict[str, list[int]] = {}
    for entry in ZeroShot()(embeddings).details["near_misses"]:
        shown.setdefault(entry["pick"], []).append(entry["image_id"])
        assert entry["margin"] == pytest.approx(margins[entry["image_id"]], abs=1e-6)
        assert {answer["correct"] for answer in entry["answers"]} == {True, False}
        assert entry["answers"][0]["score"] >= entry["answers"][1]["score"]
        assert entry["answers"][0]["correct"] == (entry["margin"] > 0)
    assert shown == {"narrow_miss": wrong[::-1][:4], "narrow_hit": right[:4], "confident_error": wrong[:4]}


def test_predictions_say_what_each_image_got() -> None:
    embeddings = replace(sure(), logit_scale=20.0)
    result = ZeroShot(max_scores=13)(embeddings)
    table = result.rows["predictions"]
    assert len({len(column) for column in table.values()}) == 1
    scores = embeddings.image_features @ class_weights(embeddings.text_features, embeddings.dataset.prompts).T
    for image, label in enumerate(embeddings.dataset.labels):
        row = {name: column[image] for name, column in table.items()}
        order = sorted(range(6), key=lambda c: -float(scores[image, c]))
        assert (row["id"], row["image"], row["label"]) == (image, f"0.tar: s{image}", label)
        assert (row["predicted"], row["top5"]) == (order[0], order[:5])
        assert row["top5_scores"] == pytest.approx(scores[image, order[:5]].tolist())
        assert row["rank"] == order.index(label) + 1
        assert (row["hit1"], row["hit5"]) == (row["rank"] <= 1, row["rank"] <= 5)
        terms = [math.exp(20 * value) for value in scores[image].tolist()]
        assert row["confidence"] == pytest.approx(max(terms) / sum(terms), rel=1e-5)
    assert sum(table["hit1"]) / 90 == pytest.approx(result.metrics["top1"])


def test_confidence_of_a_model_with_a_bias_is_a_sigmoid_and_without_a_scale_there_is_none() -> None:
    embeddings = sure()
    table = ZeroShot()(replace(embeddings, logit_scale=20.0, logit_bias=-9.0)).rows["predictions"]
    best = torch.tensor([scores[0] for scores in table["top5_scores"]])
    torch.testing.assert_close(torch.tensor(table["confidence"]), (20 * best - 9).sigmoid())
    assert "confidence" not in ZeroShot()(embeddings).rows["predictions"]


def test_one_class_is_always_right() -> None:
    result = ZeroShot()(classified(unit(5, 4, 0), unit(1, 4, 1), [0] * 5))
    assert set(result.metrics.values()) == {1.0}
    assert result.details["near_misses"] == []


def test_details_are_json_without_nan() -> None:
    result = ZeroShot()(replace(sure(templates=2), logit_scale=20.0))
    assert json.loads(json.dumps(result.details, allow_nan=False)) == result.details
