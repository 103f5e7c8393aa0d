import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from contrastive.eval.result import EvalResult, Result

OPTIONAL = ("intervals", "comparison", "error", "unreadable")


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
    assert result().as_dict(details=False).keys() == result().as_dict().keys() - {"details"}


def test_what_there_is_none_of_is_not_written_and_tables_never_are() -> None:
    assert result().as_dict().keys() == {field.name for field in fields(EvalResult)} - {*OPTIONAL, "rows"}
    known = replace(result(), intervals={"top1": (0.4, 0.6)}, error="dark", unreadable=("a",), rows={"x": {"id": [1]}})
    assert known.as_dict().keys() >= {"intervals", "error", "unreadable"}
    assert "rows" not in known.as_dict()


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
