import json
import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from contrastive.errors import ConfigError
from contrastive.eval.bootstrap import Sampling, intervals
from contrastive.eval.calibration import BINS, Calibration, Scores, fitted_scales, halves
from contrastive.eval.embed import Embeddings
from contrastive.eval.result import Result
from tests.eval.toys import classified, paired, unit

IMAGES, CLASSES = 240, 5


def scored(scale: float | None = 8.0, bias: float | None = None, noise: float = 0.6) -> Embeddings:
    texts, generator = unit(CLASSES, 12, 1), torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    images = texts[labels] + noise * torch.randn(IMAGES, 12, generator=generator)
    embeddings = classified(torch.nn.functional.normalize(images, dim=1), texts, labels.tolist())
    return replace(embeddings, logit_scale=scale, logit_bias=bias)


def cosines(embeddings: Embeddings) -> torch.Tensor:
    return embeddings.image_features.double() @ embeddings.text_features.double().T


def labels_of(embeddings: Embeddings) -> list[int]:
    return list(embeddings.dataset.labels)


def error_by_loop(confidence: list[float], correct: list[float]) -> tuple[float, float]:
    """The expected and the maximum calibration error (Guo et al. 2017)."""
    gaps, shares = [], []
    for b in range(BINS):
        inside = [i for i, c in enumerate(confidence) if b / BINS < c <= (b + 1) / BINS]
        if inside:
            gaps.append(abs(sum(correct[i] - confidence[i] for i in inside)) / len(inside))
            shares.append(len(inside) / len(confidence))
    return sum(g * s for g, s in zip(gaps, shares, strict=True)), max(gaps)


def test_metrics_equal_scikit_learn_and_a_loop() -> None:
    embeddings = scored()
    probabilities = (8 * cosines(embeddings)).softmax(1)
    labels = labels_of(embeddings)
    metrics = Calibration()(embeddings).metrics
    assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities.numpy()), abs=1e-6)
    brier = brier_score_loss(labels, probabilities.numpy(), labels=range(CLASSES), scale_by_half=False)
    assert metrics["brier"] == pytest.approx(brier, abs=1e-6)
    best = probabilities.max(1)
    correct = [float(c == label) for c, label in zip(best.indices.tolist(), labels, strict=True)]
    expected, largest = error_by_loop(best.values.tolist(), correct)
    assert metrics["ece"] == pytest.approx(expected, abs=1e-6)
    assert metrics["mce"] == pytest.approx(largest, abs=1e-6)
    assert metrics["confidence"] == pytest.approx(float(best.values.mean()), abs=1e-6)


def test_bins_of_equal_mass_hold_equal_numbers_of_images() -> None:
    embeddings = scored()
    best = (8 * cosines(embeddings)).softmax(1).max(1)
    correct = (best.indices == torch.tensor(labels_of(embeddings))).double()
    order = best.values.argsort()
    gaps = [abs(float((correct[part] - best.values[part]).sum())) / IMAGES for part in order.view(BINS, IMAGES // BINS)]
    assert Calibration()(embeddings).metrics["adaptive_ece"] == pytest.approx(sum(gaps), abs=1e-6)


def test_the_reliability_diagram_adds_up_to_the_error() -> None:
    result = Calibration()(scored())
    diagram = result.details["reliability"]
    assert diagram["edges"] == pytest.approx([b / BINS for b in range(BINS + 1)])
    assert sum(diagram["count"]) == IMAGES
    assert [a is None for a in diagram["accuracy"]] == [n == 0 for n in diagram["count"]]
    filled = [b for b in range(BINS) if diagram["count"][b]]
    assert 0 < len(filled) < BINS
    gaps = [diagram["count"][b] * abs(diagram["accuracy"][b] - diagram["confidence"][b]) / IMAGES for b in filled]
    assert sum(gaps) == pytest.approx(result.metrics["ece"])


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    images, texts = torch.eye(2)[[0]], torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    embeddings = replace(classified(images, texts, [1]), logit_scale=5.0)  # 1/3 each, the edge of bins 4 and 5
    assert Calibration()(embeddings).details["reliability"]["count"].index(1) == 4


def test_a_constant_model_is_as_right_as_it_says() -> None:
    embeddings = replace(
        classified(unit(1, 4, 0).repeat(30, 1), unit(1, 4, 1).repeat(10, 1), [i % 10 for i in range(30)]),
        logit_scale=100.0,
    )
    result = Calibration()(embeddings)
    assert result.metrics["ece"] == pytest.approx(0, abs=1e-12)
    assert result.metrics["confidence"] == pytest.approx(0.1)
    assert {name: result.metrics[name] for name in result.chance} == pytest.approx(dict(result.chance))
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_scaling_mends_an_overconfident_model_and_names_its_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = unit(3000, 8, 0), unit(4, 8, 1)
    drawn = torch.multinomial((6 * images @ texts.T).softmax(1), 1, generator=generator)[:, 0]  # calibrated at 6
    sharp = Calibration()(replace(classified(images, texts, drawn.tolist()), logit_scale=30.0)).metrics
    fair = Calibration()(replace(classified(images, texts, drawn.tolist()), logit_scale=6.0)).metrics
    assert sharp["temperature"] == pytest.approx(5, rel=0.1)
    assert fair["temperature"] == pytest.approx(1, rel=0.1)
    assert sharp["ece"] > 0.2
    assert sharp["ece_after_scaling"] < 0.04
    assert sharp["ece_after_scaling"] == pytest.approx(fair["ece_after_scaling"], abs=1e-4)


def test_the_fitted_temperature_has_the_least_loss_of_a_grid() -> None:
    embeddings = scored()
    half = halves(embeddings.dataset)
    assert abs(int(half.sum()) - IMAGES / 2) < 1
    labels = torch.tensor(labels_of(embeddings))
    found = fitted_scales(Scores(embeddings.image_features, embeddings.text_features, labels, 100), half, 8.0)
    for side in (0, 1):
        scores, right = cosines(embeddings)[half == side], labels[half == side]
        grid = torch.logspace(-1, 3, 4001, dtype=torch.float64)
        losses = [float(torch.nn.functional.cross_entropy(scores * value, right)) for value in grid]
        assert float(found[side]) == pytest.approx(float(grid[losses.index(min(losses))]), rel=2e-3)


def test_a_model_that_is_always_right_has_finite_metrics() -> None:
    labels = [i % 3 for i in range(12)]
    result = Calibration()(replace(classified(torch.eye(3)[labels], torch.eye(3), labels), logit_scale=2.0))
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["temperature"] < 0.2
    assert result.metrics["ece_after_scaling"] < result.metrics["ece"]


def test_one_image_has_no_halves() -> None:
    metrics = Calibration()(replace(classified(unit(1, 4, 0), unit(3, 4, 1), [0]), logit_scale=2.0)).metrics
    assert "ece_after_scaling" not in metrics
    assert metrics["nll"] > 0


def test_a_model_with_a_bias_is_judged_pair_by_pair() -> None:
    embeddings = scored(scale=8.0, bias=-5.0)
    probabilities = (8 * cosines(embeddings) - 5).sigmoid()
    truth = torch.nn.functional.one_hot(torch.tensor(labels_of(embeddings)), CLASSES)
    result = Calibration()(embeddings)
    flat, right = probabilities.flatten().tolist(), truth.flatten().tolist()
    expected, largest = error_by_loop(flat, right)
    assert set(result.metrics) == {"pair_ece", "pair_mce", "pair_brier", "pair_nll"}
    assert result.metrics["pair_ece"] == pytest.approx(expected, abs=1e-6)
    assert result.metrics["pair_mce"] == pytest.approx(largest, abs=1e-6)
    assert result.metrics["pair_brier"] == pytest.approx(brier_score_loss(right, flat), abs=1e-6)
    assert result.metrics["pair_nll"] == pytest.approx(log_loss(right, flat), abs=1e-6)
    assert sum(result.details["reliability"]["count"]) == IMAGES * CLASSES
    prevalence = [1 / CLASSES] * len(flat)
    assert result.chance["pair_brier"] == pytest.approx(brier_score_loss(right, prevalence))
    assert result.chance["pair_nll"] == pytest.approx(log_loss(right, prevalence))


@pytest.mark.parametrize("bias", [None, -5.0])
def test_estimates_are_the_metrics_of_the_repeated_images(bias: float | None) -> None:
    embeddings = scored(bias=bias)
    drawn = torch.randint(IMAGES, (IMAGES,), generator=torch.Generator().manual_seed(2))
    labels = [labels_of(embeddings)[i] for i in drawn.tolist()]
    again = replace(classified(embeddings.image_features[drawn], embeddings.text_features, labels), logit_scale=8.0)
    repeated = Calibration()(replace(again, logit_bias=bias)).metrics
    result = Calibration()(embeddings)
    weights = torch.stack([torch.ones(IMAGES), torch.bincount(drawn, minlength=IMAGES)]).double()
    assert len(result.estimates) == 3
    for name, estimate in result.estimates.items():
        plain, resampled = estimate(weights).tolist()
        assert plain == pytest.approx(result.metrics[name], abs=1e-9)
        assert resampled == pytest.approx(repeated[name], abs=1e-9)


def test_intervals_are_around_the_metrics() -> None:
    result = Calibration()(scored())
    found = intervals(result.estimates, result.clusters, Sampling(resamples=300))
    for name in ("nll", "brier"):
        assert found[name][0] < result.metrics[name] < found[name][1]


def figures(result: Result) -> dict[str, float]:
    return dict(result.metrics)


def test_chunks_and_order_of_the_images_do_not_matter() -> None:
    embeddings = scored()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1)).tolist()
    dataset = replace(
        embeddings.dataset,
        images=tuple(embeddings.dataset.images[i] for i in order),
        labels=tuple(embeddings.dataset.labels[i] for i in order),
    )
    shuffled = replace(embeddings, dataset=dataset, image_features=embeddings.image_features[order])
    whole = Calibration()(embeddings)
    assert figures(Calibration(max_scores=60)(shuffled)) == pytest.approx(figures(whole), abs=1e-6)


def test_details_are_json_without_nan() -> None:
    for bias in (None, -5.0):
        details = Calibration()(scored(bias=bias)).details
        assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_a_model_without_a_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task calibration needs the trained logit_scale, and the model"):
        Calibration()(scored(scale=None))


def test_a_dataset_without_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task calibration needs classes"):
        Calibration()(paired(unit(2, 4, 0), unit(2, 4, 1), [[0], [1]]))
