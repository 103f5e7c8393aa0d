"""CLIP_benchmark's words for our metrics."""

import pytest

from contrastive.eval.exchange import clip_benchmark_metrics
from contrastive.eval.result import EvalResult


def result(
    task: str, details: dict[str, object] | None = None, error: str | None = None, **metrics: float
) -> EvalResult:
    return EvalResult("digits", task, 3, metrics, {}, {}, details=details or {}, error=error)


def test_classification_is_renamed() -> None:
    found = result("zeroshot", {"counts": {"classes": 10}}, top1=0.5, top5=0.75, mean_per_class_recall=0.25)
    metrics = {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": 0.25}
    assert clip_benchmark_metrics(found) == ("zeroshot_classification", metrics)


@pytest.mark.parametrize(("classes", "acc5"), [(4, None), (5, 1.0)])
def test_top_5_of_fewer_classes_is_none_as_theirs_is(classes: int, acc5: float | None) -> None:
    found = clip_benchmark_metrics(result("zeroshot", {"counts": {"classes": classes}}, top1=0.5, top5=1.0))
    assert found is not None
    assert found[1]["acc5"] == acc5


def test_their_mean_average_precision_counts_an_empty_class_as_0() -> None:
    found = result("multilabel", {"map_empty_as_zero": 0.25}, mean_average_precision=0.5, micro_average_precision=0.75)
    assert clip_benchmark_metrics(found) == ("zeroshot_classification", {"mean_average_precision": 0.25})


def test_retrieval_is_named_by_what_is_found() -> None:
    metrics = {"image_to_text_recall@1": 0.5, "text_to_image_recall@10": 0.75, "image_to_text_recall@1_lookalikes": 1.0,
               "mean_recall": 0.6}  # fmt: skip
    named = {"text_retrieval_recall@1": 0.5, "image_retrieval_recall@10": 0.75}
    assert clip_benchmark_metrics(result("retrieval", **metrics)) == ("zeroshot_retrieval", named)


def test_probes_are_renamed() -> None:
    found = result("linear_probe", probe_top1=0.5, probe_top5=0.75, probe_mean_per_class_recall=0.25)
    named = {"lp_acc1": 0.5, "lp_acc5": 0.75, "lp_mean_per_class_recall": 0.25}
    assert clip_benchmark_metrics(found) == ("linear_probe", named)


def test_choices_are_renamed() -> None:
    found = result("choice", **{"text_score": 0.5, "image_score": 0.75, "group_score": 0.25, "text_score/swap": 1.0})
    named = {"text_acc": 0.5, "image_acc": 0.75, "acc": 0.25}
    assert clip_benchmark_metrics(found) == ("image_caption_selection", named)


@pytest.mark.parametrize("found", [result("geometry", alignment=1.0), result("zeroshot", error="no data")])
def test_what_they_do_not_have_is_none(found: EvalResult) -> None:
    assert clip_benchmark_metrics(found) is None
