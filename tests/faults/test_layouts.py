"""Another number of ranks or workers: the same samples in every step and, where sums can be, the same bits."""

from collections.abc import Callable

import pytest

from tests.faults.runs import LAST, Run
from tests.faults.test_killed import kill, require_same_end

New = Callable[..., Run]


@pytest.mark.fault(30)
def test_other_numbers_of_ranks_see_the_same_samples_in_every_step(new_run: New, undisturbed: New):
    settings = ("model.model_cfg.vision_cfg.patch_dropout=0",)  # drawn by each rank for itself
    reference = undisturbed(2, *settings)
    run = new_run(2, *settings)
    kill(run, "step:0:13:kill_all")
    job = run.start(world_size=1, fault="step:0:27:kill_all")
    assert job.wait() == [137]
    assert "world_size 2 -> 1: the same samples in every step" in run.log()
    run.finish()
    assert "world_size 1 -> 2" in run.log()
    assert run.saved()[-1] == LAST
    expected = reference.ids()
    assert {step: sorted(ids) for step, ids in run.ids().items()} == {s: sorted(ids) for s, ids in expected.items()}
    for file in ("model", "ema"):
        own, other = run.weights(file=file), reference.weights(file=file)
        assert max(float((own[name] - other[name]).abs().max()) for name in other) < 1e-3


@pytest.mark.fault(32)
def test_other_numbers_of_workers_change_no_bit(new_run: New, undisturbed: New):
    run = new_run()
    for workers, step in ((2, 13), (0, 27)):
        job = run.start(f"data.workers={workers}", fault=f"step:1:{step}:kill_all")
        assert set(job.wait()) == {137}, run.log()
    run.finish("data.workers=1")
    assert run.ids() == undisturbed().ids()
    require_same_end(run, undisturbed())
