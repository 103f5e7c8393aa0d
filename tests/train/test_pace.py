import math
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch

from contrastive import distributed
from contrastive.train.pace import Pace, straggler
from tests.toys import on_ranks

HOSTS = ["a", "b", "c", "d"]


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    found = Hands()
    monkeypatch.setattr("contrastive.train.pace.time.perf_counter", found)
    return found


def steps(pace: Pace, hands: Hands, seconds: list[float]) -> None:
    for one in seconds:
        hands.now += one
        pace.step_done()


def test_steps_are_told_by_their_mean_median_95th_percentile_and_longest(hands: Hands):
    pace, seconds = Pace(8), [0.1, 0.2, 0.3, 0.4, 2.0]
    steps(pace, hands, seconds)
    figures = pace.figures()
    assert figures["step_seconds"] == pytest.approx(np.mean(seconds))
    assert figures["step_seconds_p50"] == pytest.approx(0.3)
    assert figures["step_seconds_p95"] == pytest.approx(0.4 + 0.8 * (2.0 - 0.4))  # linear between the 4th and the 5th
    assert figures["step_seconds_max"] == pytest.approx(2.0)
    assert figures["samples_per_second"] == pytest.approx(5 * 8 / 3.0)


def test_every_call_begins_again(hands: Hands):
    pace = Pace(8)
    steps(pace, hands, [5.0])
    pace.figures()
    steps(pace, hands, [0.5, 0.5])
    figures = pace.figures()
    assert (figures["step_seconds"], figures["step_seconds_max"]) == (0.5, 0.5)
    assert figures["data_wait_share"] == 0


def test_before_the_first_step_nothing_is_said_of_single_steps(hands: Hands):
    figures = Pace(8).figures()
    assert figures["samples_per_second"] == 0
    assert "step_seconds_p50" not in figures


def test_waiting_for_data_is_a_share_of_the_time_also_when_it_ends_badly(hands: Hands):
    pace = Pace(8)
    with pace.wait():
        hands.now += 1.0
    with suppress(OSError), pace.wait():
        hands.now += 0.5
        raise OSError("lost")
    steps(pace, hands, [0.5])
    assert pace.figures()["data_wait_share"] == pytest.approx(0.75)


def test_a_pause_is_off_the_clock_of_the_mean_and_of_the_single_step(hands: Hands):
    pace = Pace(8)

    def save() -> None:
        hands.now += 60.0

    steps(pace, hands, [1.0])
    pace.pause(save)
    steps(pace, hands, [1.0])
    figures = pace.figures()
    assert (figures["step_seconds"], figures["step_seconds_max"]) == (1.0, 1.0)
    assert figures["seconds"] == pytest.approx(62.0)  # the age of the run goes on


def test_a_resumed_run_goes_on_from_its_age(hands: Hands):
    pace = Pace(8, seconds_before=1000.0)
    steps(pace, hands, [2.0])
    assert pace.figures()["seconds"] == pytest.approx(1002.0)


def test_a_jump_of_the_machines_date_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    pace = Pace(8)
    monkeypatch.setattr(time, "time", lambda: -1e12)
    pace.step_done()
    figures = pace.figures()
    assert 0 < figures["step_seconds"] < 5
    assert 0 <= figures["seconds"] < 5


def test_mfu_is_the_work_done_over_what_the_device_could_do(hands: Hands):
    pace = Pace(8)
    steps(pace, hands, [1.0, 3.0])
    assert "mfu" not in pace.figures()
    pace.flops_per_step, pace.peak_flops = 3e12, 10e12
    steps(pace, hands, [1.0, 3.0])
    assert pace.figures()["mfu"] == pytest.approx(2 * 3 / (4 * 10))


def test_memory_is_what_this_process_holds():
    block = np.ones(50_000_000)
    held = Pace(8).figures()
    assert held["memory_gigabytes"] * 1e9 == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert held["memory_gigabytes"] * 1e9 > block.nbytes
    assert "device_memory_gigabytes" not in held


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_times_its_own_steps_and_tells_its_peak_memory():
    device = torch.device("cuda")
    pace = Pace(8, device=device)
    x = torch.ones(4096, 4096, device=device)
    for _ in range(3):
        for _ in range(50):
            x = (x @ x).clamp(max=1)
        pace.arrived()
        pace.step_done()  # the host is far ahead
    figures = pace.figures()
    assert figures["step_seconds_p50"] > 50 * 2 * 4096**3 / 1e15
    assert pace.own_seconds == pytest.approx(figures["step_seconds_p50"], rel=0.5)
    assert figures["device_memory_gigabytes"] > x.nbytes / 1e9


def test_own_time_is_the_mean_from_the_start_of_a_step_to_the_arrival(hands: Hands):
    pace = Pace(8)
    for own, others in ((0.25, 1.0), (0.75, 2.0)):
        hands.now += own
        pace.arrived()
        hands.now += others
        pace.arrived()  # of a second loss: by then the others have been waited for
        pace.step_done()
    pace.figures()
    assert pace.own_seconds == pytest.approx(0.5)
    pace.figures()
    assert pace.own_seconds == 0


def test_a_straggler_is_named_with_its_machine_and_both_times():
    line = straggler([0.12, 0.11, 0.13, 0.41], 0.6, HOSTS)
    assert line == (
        "rank 3 (d) is slow: 0.41 s from the start of a step to its features, the median of the others is 0.12 s"
    )


@pytest.mark.parametrize(
    ("own", "step_seconds"),
    [
        ([0.12, 0.11, 0.13, 0.35], 0.6),  # less than three times
        ([0.001, 0.001, 0.001, 0.01], 0.6),  # ten times next to nothing
        ([0.0, 0.0], 0.0),
        ([5.0], 5.0),
        ([], 0.0),
    ],
)
def test_no_straggler(own: list[float], step_seconds: float):
    assert straggler(own, step_seconds, HOSTS) is None


def _paced_rank(slow: int) -> tuple[list[float], str | None]:
    pace = Pace(8)
    for _ in range(5):
        with pace.wait():
            time.sleep(0.08 if distributed.rank() == slow else 0.004)
        pace.arrived()
        distributed.barrier()  # stands for the features' exchange
        pace.step_done()
    figures = pace.figures()
    own = distributed.gather_objects(pace.own_seconds)
    return own, straggler(own, figures["step_seconds"], HOSTS)


@pytest.mark.parametrize(("world_size", "slow"), [(2, 1), (4, 2)])
def test_ranks_that_wait_for_another_do_not_look_slow_themselves(world_size: int, slow: int):
    for own, line in on_ranks(_paced_rank, world_size, slow):
        assert line is not None
        assert line.startswith(f"rank {slow} ({HOSTS[slow]}) is slow")
        assert all(math.isfinite(seconds) for seconds in own)
