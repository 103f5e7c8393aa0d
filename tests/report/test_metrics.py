"""What is known of metrics by their names."""

import pytest

from contrastive.report.metrics import MOST_HEADLINES, better, headlines, is_share, meanings, spaced

SHARES = ["top1", "image_to_text_recall@1", "mean_average_precision", "ece", "group_score", "text_score/swap",
          "separability", "precedence"]  # fmt: skip
OTHERS = ["median_rank", "loss", "nll", "brier", "modality_gap", "alignment", "uniformity_image", "cos_positive",
          "effective_rank_text", "text_to_image_mrr", "temperature", "hubness", "infonce_text_to_image"]  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_read_in_per_cent(name: str) -> None:
    assert is_share(name, 0.5)
    assert is_share(name, 1)


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_lies_between_0_and_1_is_no_share(name: str) -> None:
    assert not is_share(name, 0.5)


@pytest.mark.parametrize("value", [1.5, -0.1, None, "0.5", float("nan"), True])
def test_a_value_outside_0_and_1_is_no_share(value: object) -> None:
    assert not is_share("top1", value)


WAYS = {
    1: ["top1", "mean_recall"],
    -1: ["median_rank", "adaptive_ece", "nll", "pair_brier", "infonce_image_to_text"],
    0: [
        "modality_gap",
        "effective_rank_image",
        "confidence",
        "temperature",
        "never_retrieved_text",
        "few_shot_top1@4_std",
    ],
}


@pytest.mark.parametrize(("name", "way"), [(name, way) for way, names in WAYS.items() for name in names])
def test_which_way_is_better_is_known(name: str, way: int) -> None:
    assert better(name) == way


def test_few_metrics_are_all_headlines() -> None:
    names = [f"metric_{i}" for i in range(MOST_HEADLINES)]
    assert headlines(names) == names


def test_of_many_metrics_the_known_ones_are_headlines_in_their_own_order() -> None:
    others = [f"metric_{i}" for i in range(MOST_HEADLINES)]
    assert headlines([*others, "mean_recall", "top1"]) == ["mean_recall", "top1"]
    assert headlines([*others, "one_more"]) == others


def test_names_of_one_meaning_stand_together_and_unknown_ones_nowhere() -> None:
    names = ["image_to_text_recall@1", "mine", "image_to_text_recall@5", "top1", "image_to_text_recall@1"]
    (first, text), (second, _) = meanings(names)
    assert (first, second) == (["image_to_text_recall@1", "image_to_text_recall@5"], ["top1"])
    assert "captions" in text


def test_lookalikes_have_their_own_meaning() -> None:
    (_, plain), (_, tolerant) = meanings(["text_to_image_recall@1", "text_to_image_recall@1_lookalikes"])
    assert plain != tolerant


def test_underscores_are_spaces() -> None:
    assert spaced("mean_per_class_recall") == "mean per class recall"
