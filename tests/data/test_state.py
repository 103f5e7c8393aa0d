import json
from dataclasses import replace
from typing import Any

import pytest

from contrastive.data.state import StreamState
from contrastive.errors import DataError

STATE = StreamState(480, "ab" * 16, 3, (4, 1), (4096, None), ("1.0", "0.5"))


def test_a_state_survives_json():
    assert StreamState.from_dict(json.loads(json.dumps(STATE.to_dict()))) == STATE


def test_the_same_order_goes_on_where_it_was():
    assert replace(STATE, consumed=0).resumed_from(STATE) == STATE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "cd" * 16}, r"the shards hold other samples \(abababab then, cdcdcdcd now\)"),
        ({"seed": 4}, r"train.seed is another \(3 then, 4 now\)"),
        ({"lanes": (1, 1)}, "data.lanes is another"),
        ({"window": (None, None)}, "data.window is another"),
        ({"weights": ("1.0", "2.0")}, "the weights of data.sources are others"),
        ({"replacement": True}, "data.replacement is another"),
    ],
)
def test_another_order_is_refused_with_the_choice_or_begun_again(change: dict[str, Any], message: str):
    now = replace(STATE, consumed=0, **change)
    with pytest.raises(DataError, match=message) as caught:
        now.resumed_from(STATE)
    assert "put back what changed to continue at the next sample, or begin a pass" in str(caught.value)
    assert now.resumed_from(STATE, "restart") == now


@pytest.mark.parametrize("change", [{"consumed": -1}, {"consumed": "many"}, {"more": 1}])
def test_a_broken_state_is_refused(change: dict[str, Any]):
    with pytest.raises(DataError, match="the state of the data stream"):
        StreamState.from_dict({**STATE.to_dict(), **change})


def test_a_state_that_lacks_a_field_is_refused():
    with pytest.raises(DataError, match="cannot be read"):
        StreamState.from_dict({"consumed": 3})
