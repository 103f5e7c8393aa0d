import pytest

from contrastive.errors import ConfigError
from contrastive.eval.result import EvalResult
from contrastive.runs.limits import Limit, broken, parse_limit, significantly_worse

RESULTS = [
    EvalResult("digits", "zeroshot", 10, {"top1": 0.6, "top5": 0.9}, {}, {}),
    EvalResult("pets", "zeroshot", 10, {"top1": 0.3}, {}, {}),
]


def test_limits_are_of_a_metric_a_dataset_or_a_task():
    assert parse_limit("top1=0.5") == Limit("", "", "top1", 0.5)
    assert parse_limit("digits/top1=0.5") == Limit("digits", "", "top1", 0.5)
    assert parse_limit("digits/zeroshot/top1=.5") == Limit("digits", "zeroshot", "top1", 0.5)


@pytest.mark.parametrize("text", ["top1", "top1=", "=0.5", "top1=high", "top1=nan", "a/b/c/d=0.5", "/top1=0.5"])
def test_what_is_no_limit_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"--fail-under: .* must be METRIC=VALUE"):
        parse_limit(text)


def test_what_is_under_a_limit_is_named():
    assert broken([parse_limit("top1=0.5")], RESULTS) == ["pets/zeroshot/top1 is 0.3000, under 0.5"]
    assert broken([parse_limit("digits/top1=0.6"), parse_limit("digits/zeroshot/top5=0.9")], RESULTS) == []


def test_a_limit_of_no_result_is_refused():
    with pytest.raises(ConfigError, match=r"pets/top5=0.5 is of no result; there are digits/top1, digits/top5, pets/"):
        broken([parse_limit("pets/top5=0.5")], RESULTS)


@pytest.mark.parametrize(("delta", "p", "count"), [(-0.1, 0.01, 1), (-0.1, 0.2, 0), (0.1, 0.01, 0)])
def test_only_a_significant_loss_of_the_first_metric_counts(delta: float, p: float, count: int):
    comparison = {"top1": {"delta": delta, "p": p}, "top5": {"delta": -1.0, "p": 0.001}}
    result = EvalResult("digits", "zeroshot", 10, {"top1": 0.6, "top5": 0.9}, {}, {}, comparison=comparison)
    assert len(significantly_worse([result])) == count
