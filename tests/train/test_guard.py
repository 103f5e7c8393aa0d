import json
import math

import pytest

from contrastive.errors import RunError
from contrastive.settings import TrainConfig
from contrastive.train.guard import FEWEST, MAX_ROLLBACKS, OVERFLOWS, Guard
from contrastive.train.vote import Counted


def good(step: int, loss: float = 2.0) -> Counted:
    return Counted(step, False, False, 0, False, loss)


def bad(step: int, *, gradient: bool = False) -> Counted:
    return Counted(step, not gradient, gradient, 0, False, math.nan)


def where() -> str:
    return "; see FILE"


def test_by_default_a_bad_step_ends_the_run_with_what_to_do():
    guard = Guard(TrainConfig())
    assert guard.judge(bad(7)) == "bad"
    with pytest.raises(
        RunError, match=r"^the loss is nan; lower optim\.learning_rate, .*on_nonfinite=skip.*; see FILE$"
    ):
        guard.require_patience(bad(7), "the loss is nan", where)


def test_so_many_in_a_row_may_be_skipped(caplog: pytest.LogCaptureFixture):
    guard = Guard(TrainConfig(on_nonfinite="skip", max_skips=2))
    for step in (1, 2, 4, 5):
        if step == 4:
            guard.judge(good(3))
        guard.judge(bad(step))
        guard.require_patience(bad(step), "the loss is nan", where)
    assert guard.counts() == {"skipped_steps": 4}
    assert "step 5: the loss is nan; skipped, 4 so far; see FILE" in caplog.text
    guard.judge(bad(6))
    with pytest.raises(RunError, match=r"the loss is nan, after 2 steps in a row \(train\.max_skips\)"):
        guard.require_patience(bad(6), "the loss is nan", where)


def test_an_overflow_of_fp16_is_no_fault_but_not_for_ever():
    guard = Guard(TrainConfig(), overflows=True)
    for step in range(OVERFLOWS):
        guard.judge(bad(step, gradient=True))
        guard.require_patience(bad(step, gradient=True), "the norm is inf", where)
    guard.judge(bad(99, gradient=True))
    with pytest.raises(RunError, match="the norm is inf, for the 51th time in a row"):
        guard.require_patience(bad(99, gradient=True), "the norm is inf", where)
    with pytest.raises(RunError, match="the loss is nan; lower"):
        guard.require_patience(bad(99), "the loss is nan", where)


def test_a_leap_above_the_median_is_a_spike_and_does_not_raise_the_median():
    guard = Guard(TrainConfig(spike_factor=2.0))
    verdicts = [guard.judge(good(step, 1.0 + step / 100)) for step in range(FEWEST)]
    assert set(verdicts) == {"good"}
    assert [guard.judge(good(50, 5.0)) for _ in range(30)] == ["spike"] * 30
    assert guard.judge(good(51, 2.1)) == "good"
    assert guard.counts() == {"loss_spikes": 30}


def test_nothing_is_a_spike_before_enough_losses_are_known_or_where_nobody_asked():
    guard = Guard(TrainConfig(spike_factor=2.0))
    assert [guard.judge(good(1, 1.0)), guard.judge(good(2, 100.0))] == ["good", "good"]
    calm = Guard(TrainConfig())
    assert {calm.judge(good(step, 10.0**step)) for step in range(40)} == {"good"}


def test_setting_back_again_and_again_ends_the_run():
    guard = Guard(TrainConfig(spike_factor=2.0))
    for _ in range(MAX_ROLLBACKS):
        guard.begin_again()
    with pytest.raises(RunError, match="leaps up again after 3 times"):
        guard.begin_again()


def test_its_state_survives_json():
    guard, other = Guard(TrainConfig(spike_factor=2.0)), Guard(TrainConfig(spike_factor=2.0))
    for step in range(30):
        guard.judge(good(step, 1 / (step + 3)))
    guard.judge(bad(31))
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.state_dict() == guard.state_dict()
    assert other.judge(good(32, 5.0)) == "spike"
