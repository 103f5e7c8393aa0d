import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from contrastive.errors import ConfigError
from contrastive.eval.embed import Embeddings
from contrastive.eval.geometry import Geometry, pairs_of
from tests.eval.toys import classified, paired, unit

CAPTIONS = [[i, 30 + i] for i in range(30)]


def learned(captions: list[list[int]] = CAPTIONS, texts: int = 60, scale: float | None = 20.0) -> Embeddings:
    """Texts near their images, apart from them by a constant offset, as a trained model has them."""
    images, noise = unit(len(captions), 16, 0), unit(texts, 16, 1)
    owner = torch.zeros(texts, dtype=torch.int64)
    for image, group in enumerate(captions):
        owner[group] = image
    features = normalize(images[owner] + 0.7 * noise + 0.5, dim=1)
    return replace(paired(images, features, captions), logit_scale=scale)


def mean_distance(rows: Tensor) -> float:
    return 1 - sum((rows[i] @ rows[j]).item() for i in range(len(rows)) for j in range(len(rows)) if i != j) / (
        len(rows) * (len(rows) - 1)
    )


def test_distances_are_those_of_a_loop() -> None:
    embeddings = learned()
    images, texts = embeddings.image_features.double(), embeddings.text_features.double()
    metrics = Geometry()(embeddings).metrics
    pairs = {(image, text) for image, group in enumerate(CAPTIONS) for text in group}
    positive = [(images[i] @ texts[t]).item() for i, t in sorted(pairs)]
    negative = [(images[i] @ texts[t]).item() for i in range(30) for t in range(60) if (i, t) not in pairs]
    across = sum(1 - cosine for cosine in positive) / len(positive)
    within = (mean_distance(images) + mean_distance(texts)) / 2
    assert metrics["modality_gap"] == pytest.approx((images.mean(0) - texts.mean(0)).norm().item(), abs=1e-6)
    assert metrics["alignment"] == pytest.approx(
        sum((images[i] - texts[t]).square().sum().item() for i, t in pairs) / len(pairs), abs=1e-6
    )
    assert metrics["cos_positive"] == pytest.approx(sum(positive) / len(positive), abs=1e-6)
    assert metrics["cos_negative"] == pytest.approx(sum(negative) / len(negative), abs=1e-6)
    assert metrics["rmg"] == pytest.approx(across / (within + across), abs=1e-6)


def test_loss_of_one_text_an_image_is_cross_entropy_both_ways_beside_log_of_the_pool() -> None:
    embeddings = learned([[i] for i in range(25)], 25)
    logits = 20 * embeddings.image_features.double() @ embeddings.text_features.double().T
    result = Geometry()(embeddings)
    own = torch.arange(25)
    assert result.metrics["infonce_image_to_text"] == pytest.approx(cross_entropy(logits, own).item(), abs=1e-5)
    assert result.metrics["infonce_text_to_image"] == pytest.approx(cross_entropy(logits.T, own).item(), abs=1e-5)
    assert result.chance["infonce_image_to_text"] == pytest.approx(math.log(25))


def test_loss_of_several_texts_is_that_of_all_of_them_together() -> None:
    embeddings = learned()
    shares = (20 * embeddings.image_features.double() @ embeddings.text_features.double().T).softmax(1)
    right = torch.stack([shares[image, group].sum() for image, group in enumerate(CAPTIONS)])
    result = Geometry()(embeddings)
    assert result.metrics["infonce_image_to_text"] == pytest.approx(-right.log().mean().item(), abs=1e-5)
    assert result.chance["infonce_image_to_text"] == pytest.approx(math.log(30))


def test_a_model_that_tells_nothing_apart_has_the_loss_of_chance() -> None:
    result = Geometry()(learned(scale=1e-6))
    for name in ("infonce_image_to_text", "infonce_text_to_image"):
        assert result.metrics[name] == pytest.approx(result.chance[name], abs=1e-4)


def test_without_a_temperature_there_is_no_loss() -> None:
    assert not [name for name in Geometry()(learned(scale=None)).metrics if "infonce" in name]


def test_modalities_far_apart_are_separable_and_mixed_ones_are_not() -> None:
    corner = torch.eye(16)[:1]
    near, far = normalize(unit(40, 16, 0) + 3 * corner, dim=1), normalize(unit(40, 16, 1) - 3 * corner, dim=1)
    pairs = [[i] for i in range(40)]
    assert Geometry()(paired(near, far, pairs)).metrics["separability"] == 1.0
    result = Geometry()(paired(near, near, pairs))
    assert result.metrics["separability"] == result.chance["separability"] == 0.5
    assert result.metrics["modality_gap"] == pytest.approx(0, abs=1e-6)
    assert result.metrics["alignment"] == pytest.approx(0, abs=1e-6)


def test_hubs_are_named_and_counted() -> None:
    texts = unit(60, 16, 1)
    images = normalize(texts[7] + 0.01 * unit(60, 16, 0), dim=1)  # every image has the same ten neighbours
    result = Geometry()(paired(images, texts, [[i] for i in range(60)]))
    assert {"text": "text 7", "n": 60} in result.details["hubs"]
    share = 10 / 60
    assert result.metrics["hubness_text"] == pytest.approx((1 - 2 * share) / (share * (1 - share)) ** 0.5)
    assert result.metrics["never_retrieved_text"] == pytest.approx(1 - share)


def test_classes_pair_every_image_with_the_mean_of_its_prompts() -> None:
    embeddings = classified(unit(40, 16, 0), unit(24, 16, 1), [i % 11 for i in range(40)], templates=2)
    space = pairs_of(embeddings)
    assert space.names == [f"class {c}" for c in range(11)]  # the twelfth has no image
    torch.testing.assert_close(space.texts[3], normalize(embeddings.text_features[6:8].mean(0), dim=0))
    assert space.pairs.tolist() == [[i, i % 11] for i in range(40)]
    metrics = Geometry()(embeddings).metrics
    assert {"modality_gap", "alignment", "hubness_text"} <= metrics.keys()


def test_images_of_several_classes_or_none_are_paired_with_what_they_show() -> None:
    known = classified(unit(3, 8, 0), unit(4, 8, 1), [0, 0, 0])
    dataset = replace(known.dataset, labels=(), label_sets=((0, 3), (), (2,)))
    embeddings = replace(known, dataset=dataset, logit_scale=10.0)
    assert pairs_of(embeddings).pairs.tolist() == [[0, 0], [0, 2], [2, 1]]
    metrics = Geometry()(embeddings).metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_captions_of_equal_text_are_one_text() -> None:
    known = paired(unit(2, 8, 0), unit(2, 8, 1), [[0, 1], [2]])
    dataset = replace(known.dataset, documents=(0, 0, 1))
    assert pairs_of(replace(known, dataset=dataset)).pairs.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("max_scores", [1, 500])
def test_chunks_and_order_do_not_matter(max_scores: int) -> None:
    embeddings, order = learned(), torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    moved = paired(embeddings.image_features[order], embeddings.text_features, [CAPTIONS[image] for image in order])
    expected = Geometry()(embeddings).metrics
    found = Geometry(max_scores=max_scores)(replace(moved, logit_scale=20.0)).metrics
    assert found == pytest.approx(expected, abs=1e-5)


def test_estimates_are_the_metrics_where_all_images_count_once() -> None:
    result = Geometry()(learned())
    assert {"alignment", "infonce_text_to_image"} <= result.estimates.keys()
    for name, estimate in result.estimates.items():
        ones = torch.ones(1, result.clusters, dtype=torch.float64)
        assert estimate(ones).item() == pytest.approx(result.metrics[name])


@pytest.mark.parametrize("texts", [1, 2])
def test_figures_that_so_few_do_not_define_are_left_out(texts: int) -> None:
    result = Geometry()(paired(unit(1, 8, 0), unit(texts, 8, 1), [list(range(texts))]))
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert "uniformity_image" not in result.metrics
    assert "hubness_text" not in result.metrics
    json.dumps(result.details, allow_nan=False)


def test_a_dataset_without_pairs_is_refused() -> None:
    known = classified(unit(2, 4, 0), unit(2, 4, 1), [0, 1])
    with pytest.raises(ConfigError, match="dataset toy: task geometry needs pairs of images and texts"):
        Geometry()(replace(known, dataset=replace(known.dataset, labels=())))


def test_a_sample_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sample: 1 must be at least 2"):
        Geometry(sample=1)


def test_a_space_of_hardly_more_than_one_dimension_is_warned_of_and_few_rows_are_not() -> None:
    line = normalize(torch.tensor([1.0, 0, 0]) + torch.linspace(-1, 1, 30)[:, None] * torch.tensor([0, 1.0, 0]), dim=1)
    flat = Geometry()(paired(line, unit(30, 3, 0), [[i] for i in range(30)]))
    assert [warning.split(" features")[0] for warning in flat.warnings] == ["dataset toy: image"]
    assert not Geometry()(paired(line[:8], unit(8, 3, 0), [[i] for i in range(8)])).warnings
    assert not Geometry()(learned()).warnings
