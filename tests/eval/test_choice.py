import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from contrastive.errors import ConfigError, DataError
from contrastive.eval.bootstrap import Sampling, intervals
from contrastive.eval.choice import MAX_CATEGORIES, Choosing, chance, judge
from contrastive.eval.datasets import Alternatives, EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import members, unit

Shape = tuple[tuple[int, ...], tuple[int, ...], str]


def chosen(images: torch.Tensor, texts: torch.Tensor, choices: list[Shape]) -> Embeddings:
    dataset = EvalDataset(
        spec=DatasetSpec(name="toy", root="toy"),
        images=members(len(images)),
        texts=tuple(f"text {index}" for index in range(len(texts))),
        choices=tuple(Alternatives(*choice) for choice in choices),
    )
    return Embeddings(dataset, images, texts)


def pairs(count: int, category: str = "") -> list[Shape]:
    """Winoground: two images and their two texts."""
    return [((2 * i, 2 * i + 1), (2 * i, 2 * i + 1), category) for i in range(count)]


def right(heights: np.ndarray) -> np.ndarray:
    """Whether a choice [I, T] without ties has its text, image and group right, by the definition."""
    images = len(heights)
    text = all(heights[i].argmax() == i for i in range(images))
    image = all(heights[:, i].argmax() == i for i in range(images))
    return np.array([text, image, text and image])


def over_all_orders(scores: np.ndarray) -> np.ndarray:
    orders = itertools.permutations(range(scores.size))
    return np.mean([right(scores + 1e-3 * np.reshape(order, scores.shape)) for order in orders], axis=0)


@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (2, 2), (2, 3)])
def test_level_pairs_score_the_mean_over_all_their_orders(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for levels in (1, 2, 2, 2, 3, 3, 5):
        scores = random.integers(levels, size=shape).astype(float)
        np.testing.assert_allclose(judge(torch.from_numpy(scores)), over_all_orders(scores), atol=1e-12)


def test_three_level_images_score_the_mean_over_drawn_orders() -> None:
    random = np.random.default_rng(0)
    for scores in (np.zeros((3, 3)), np.eye(3)[[0, 1, 1]] + 0.0, np.diag([1.0, 0, 0]), np.diag([0, 0, 1.0])):
        drawn = [right(scores + 1e-3 * random.random((3, 3))) for _ in range(10_000)]
        np.testing.assert_allclose(judge(torch.from_numpy(scores)), np.mean(drawn, axis=0), atol=0.02)


@pytest.mark.parametrize("shape", [(1, 2), (1, 5), (2, 2), (2, 4), (3, 3), (4, 6)])
def test_a_constant_model_scores_chance(shape: tuple[int, int]) -> None:
    assert judge(torch.full(shape, 0.25, dtype=torch.float64)) == pytest.approx(chance(*shape), abs=1e-12)


def test_chance_on_winoground_and_sugar_crepe_is_the_published_one() -> None:
    assert chance(2, 2) == pytest.approx((1 / 4, 1 / 4, 1 / 6))
    assert chance(1, 2)[0] == 1 / 2


def test_a_model_of_equal_embeddings_scores_exactly_chance() -> None:
    images, texts = unit(1, 7, 0).repeat(12, 1), unit(1, 7, 1).repeat(14, 1)
    result = Choosing()(chosen(images, texts, [*pairs(4), ((8,), (8, 9), ""), ((10, 11), (10, 11, 12), "")]))
    assert result.metrics == pytest.approx(dict(result.chance), abs=1e-12)
    assert result.details["counts"]["tie_rate"] == 1.0


def test_scores_are_the_definition_of_winoground_by_a_loop() -> None:
    images, texts = unit(80, 6, 0), unit(80, 6, 1)
    result = Choosing()(chosen(images, texts, pairs(40)))
    text = image = group = 0
    for a in range(0, 80, 2):
        b = a + 1
        s = {(i, t): float(images[i].double() @ texts[t].double()) for i in (a, b) for t in (a, b)}
        text_right = s[a, a] > s[a, b] and s[b, b] > s[b, a]
        image_right = s[a, a] > s[b, a] and s[b, b] > s[a, b]
        text, image, group = text + text_right, image + image_right, group + (text_right and image_right)
    assert 0 < group < text
    assert result.metrics == {"text_score": text / 40, "image_score": image / 40, "group_score": group / 40}


def test_one_image_and_two_texts_have_a_text_score_alone() -> None:
    images, texts = unit(50, 6, 0), unit(100, 6, 1)
    choices: list[Shape] = [((i,), (2 * i, 2 * i + 1), "") for i in range(50)]
    result = Choosing()(chosen(images, texts, choices))
    hits = [float(images[i] @ texts[2 * i]) > float(images[i] @ texts[2 * i + 1]) for i in range(50)]
    assert result.metrics == {"text_score": sum(hits) / 50}
    assert result.chance == {"text_score": 0.5}
    assert set(result.rows["choices"]["group_score"]) == {None}


def test_a_perfect_model_scores_one() -> None:
    result = Choosing()(chosen(torch.eye(4), torch.eye(4), pairs(2)))
    assert set(result.metrics.values()) == {1.0}


def test_image_and_group_score_are_means_over_choices_of_several_images() -> None:
    texts = torch.eye(4)[[0, 1, 2, 3]]
    images = torch.eye(4)[[0, 1, 2]]
    result = Choosing()(chosen(images, texts, [((0, 1), (0, 1), ""), ((2,), (3, 2), "")]))
    assert result.metrics == {"text_score": 0.5, "image_score": 1.0, "group_score": 1.0}


def test_two_equal_texts_share_the_hit() -> None:
    result = Choosing()(chosen(unit(3, 5, 0), unit(3, 5, 1), [((i,), (i, i), "") for i in range(3)]))
    assert result.metrics["text_score"] == 0.5


def test_each_category_has_its_own_text_score() -> None:
    images, texts = unit(40, 6, 0), unit(40, 6, 1)
    choices = [(i, t, "swap" if place % 3 else "add") for place, (i, t, _) in enumerate(pairs(20))]
    whole = Choosing()(chosen(images, texts, choices))
    for category in ("swap", "add"):
        alone = Choosing()(chosen(images, texts, [choice for choice in choices if choice[2] == category]))
        assert whole.metrics[f"text_score/{category}"] == alone.metrics["text_score"]
        assert whole.chance[f"text_score/{category}"] == 0.25
        assert list(alone.metrics) == ["text_score", "image_score", "group_score"]  # one category is no breakdown


def test_only_the_most_frequent_categories_get_a_metric() -> None:
    count = MAX_CATEGORIES + 5
    choices: list[Shape] = [((0,), (0, 1), f"c{i:02d}") for i in range(count) for _ in range(1 + (i >= 5))]
    metrics = Choosing()(chosen(unit(2, 4, 0), unit(2, 4, 1), choices)).metrics
    assert [name for name in metrics if "/" in name] == [f"text_score/c{i:02d}" for i in range(5, count)]


def test_choices_of_many_shapes_are_scored_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = unit(30, 6, 0), unit(30, 6, 1)
    choices: list[Shape] = [((i,), (i, i + 1), "") if i % 3 else ((i, i + 1), (i, i + 1, i + 2), "") for i in range(25)]
    whole = Choosing()(chosen(images, texts, choices))
    for row, (image_ids, text_ids, _) in zip(whole.rows["choices"]["scores"], choices, strict=True):
        expected = images[list(image_ids)].double() @ texts[list(text_ids)].double().T
        assert np.array(row) == pytest.approx(expected.numpy(), abs=1e-12)
    monkeypatch.setattr("contrastive.eval.choice.MAX_VALUES", 40)
    assert Choosing()(chosen(images, texts, choices)).rows == whole.rows


def test_estimates_are_the_metrics_and_choices_of_one_image_are_drawn_together() -> None:
    images, texts = unit(20, 6, 0), unit(20, 6, 1)
    choices: list[Shape] = [((i // 2,), (i, (i + 1) % 20), "ab"[i % 2]) for i in range(20)]
    result = Choosing()(chosen(images, texts, choices))
    plain = torch.ones(1, 20, dtype=torch.float64)
    assert {name: float(estimate(plain)) for name, estimate in result.estimates.items()} == pytest.approx(
        dict(result.metrics)
    )
    twice = torch.zeros(1, 20, dtype=torch.float64)
    twice[0, 3] = 20
    scores = result.rows["choices"]["text_score"]
    assert float(result.estimates["text_score"](twice)) == (scores[6] + scores[7]) / 2
    low, high = intervals(result.estimates, result.clusters, Sampling(resamples=200))["text_score"]
    assert low <= result.metrics["text_score"] <= high


def test_the_gallery_shows_the_worst_choices_with_what_was_chosen() -> None:
    images, texts = unit(60, 6, 0), unit(60, 6, 1)
    result = Choosing()(chosen(images, texts, pairs(30, "swap")))
    margins = result.rows["choices"]["margin"]
    worst = [entry for entry in result.details["gallery"] if entry["pick"] == "worst"]
    assert [entry["query"] for entry in worst] == sorted(range(30), key=margins.__getitem__)[:4]
    for entry in result.details["gallery"] + result.details["near_misses"]:
        choice = entry["query"]
        assert entry["margin"] == margins[choice]
        assert entry["answers"] == sorted(entry["answers"], key=lambda answer: -answer["score"])
        (found,) = (answer for answer in entry["answers"] if answer["correct"])
        assert entry["rank"] == 1 + entry["answers"].index(found)
        if entry["direction"] == "image_to_text":
            assert entry["image_id"] - 2 * choice == found["id"]
            assert entry["truth"] == found["text"] == f"text {entry['image_id']}"
        else:
            assert found["image_id"] - 2 * choice == found["id"]
            assert entry["text"] == entry["truth"] == f"text {found['image_id']}"
    assert {entry["direction"] for entry in result.details["gallery"]} == {"image_to_text", "text_to_image"}


def test_near_misses_are_the_smallest_margins() -> None:
    result = Choosing()(chosen(unit(60, 6, 0), unit(60, 6, 1), pairs(30)))
    margins = result.rows["choices"]["margin"]
    shown: dict[str, list[int]] = {}
    for entry in result.details["near_misses"]:
        shown.setdefault(entry["pick"], []).append(entry["query"])
    order = sorted(range(30), key=margins.__getitem__)
    wrong, hit = [c for c in order if margins[c] <= 0], [c for c in order if margins[c] > 0]
    assert shown == {"narrow_miss": wrong[::-1][:4], "narrow_hit": hit[:4]}


def test_details_and_rows_are_json_without_nan() -> None:
    result = Choosing()(chosen(unit(8, 6, 0), unit(8, 6, 1), pairs(4, "swap")))
    for content in (result.details, result.rows):
        assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_dataset_without_choices_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset toy: task choice needs choices, and there are none"):
        Choosing()(chosen(unit(2, 4, 0), unit(2, 4, 1), []))


@pytest.mark.parametrize("choice", [((0,), (0,), ""), ((0, 1), (0,), ""), ((), (0, 1), ""), ((0,) * 13, (0,) * 13, "")])
def test_a_choice_of_an_impossible_shape_is_refused(choice: Shape) -> None:
    embeddings = chosen(unit(2, 4, 0), unit(2, 4, 1), [((0,), (0, 1), ""), choice])
    message = f"dataset toy: choice 1 has {len(choice[0])} images and {len(choice[1])} texts; it must have 1 to 12"
    with pytest.raises(DataError, match=message):
        Choosing()(embeddings)


def test_order_of_the_choices_does_not_matter() -> None:
    embeddings = chosen(unit(40, 6, 0), unit(40, 6, 1), pairs(20))
    dataset = replace(embeddings.dataset, choices=embeddings.dataset.choices[::-1])
    assert Choosing()(replace(embeddings, dataset=dataset)).metrics == Choosing()(embeddings).metrics
