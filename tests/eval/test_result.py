import json
from dataclasses import FrozenInstanceError, fields

import pytest

from contrastive.eval.result import EvalResult, Result


def result() -> EvalResult:
    return EvalResult(
        dataset="digits",
        task="zeroshot",
        n=3,
        metrics={"top1": 0.5},
        chance={"top1": 0.1},
        timing={"embed_seconds": 1.5},
        warnings=("12 texts were cut off",),
        details={"gallery": [{"query": 0, "answers": [{"id": 2}]}]},
    )


def test_every_field_comes_back_from_json() -> None:
    assert json.loads(json.dumps(result().as_dict(), allow_nan=False)) == {
        "dataset": "digits",
        "task": "zeroshot",
        "n": 3,
        "metrics": {"top1": 0.5},
        "chance": {"top1": 0.1},
        "timing": {"embed_seconds": 1.5},
        "warnings": ["12 texts were cut off"],
        "details": {"gallery": [{"query": 0, "answers": [{"id": 2}]}]},
    }


def test_details_are_left_out_on_request_and_nothing_else_is() -> None:
    assert result().as_dict(details=False).keys() == {field.name for field in fields(EvalResult)} - {"details"}


def test_changing_the_dictionary_leaves_the_result_alone() -> None:
    found = result()
    content = found.as_dict()
    content["metrics"]["top1"] = 0.0
    content["details"]["gallery"][0]["answers"].clear()
    found.as_dict(details=False)
    assert found == result()


def test_a_task_may_leave_out_its_details() -> None:
    one, other = Result({"top1": 1.0}, {"top1": 0.1}), Result({}, {})
    assert one.details == {}
    assert one.details is not other.details


@pytest.mark.parametrize("found", [result(), Result({}, {})])
def test_a_result_cannot_be_changed(found: Result | EvalResult) -> None:
    with pytest.raises(FrozenInstanceError):
        found.metrics = {"top1": 1.0}  # type: ignore[misc]
