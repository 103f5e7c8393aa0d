"""Losses and gradients that are not finite, and leaps of the loss: no bad step reaches the weights of any rank."""

import itertools
import json
import re
import statistics
from collections.abc import Callable

import pytest
import torch

from tests.faults.runs import LAST, Run

New = Callable[..., Run]
BAD = {24: "nan", 25: "inf"}


def each_fault(test: Callable[..., None]) -> Callable[..., None]:
    cases = [pytest.param(what, id=what, marks=pytest.mark.fault(number)) for number, what in BAD.items()]
    return pytest.mark.parametrize("what", cases)(test)


def suspects(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.directory / "nonfinite.jsonl").read_text().splitlines()]


def batch_of(run: Run, step: int, rank: int) -> list[int]:
    rows = map(json.loads, (run.folder / "ids.jsonl").read_text().splitlines())
    return next(row["ids"] for row in rows if (row["step"], row["rank"]) == (step, rank))


def updates(run: Run) -> int:
    """Return how often AdamW has changed the weights, by its own count."""
    counts = {int(value) for name, value in run.weights(file="training").items() if "/step/" in name}
    assert len(counts) == 1
    return counts.pop()


def is_finite(run: Run, step: int) -> bool:
    files = (run.weights(step, file) for file in ("model", "ema", "training"))
    return all(bool(value.isfinite().all()) for tensors in files for value in tensors.values())


@each_fault
def test_by_default_both_ranks_stop_and_say_which_samples(new_run: New, what: str):
    run = new_run()
    job = run.start(fault=f"step:1:12:{what}")
    assert job.wait() == [2, 2], run.log()
    name = {"nan": "the loss is nan", "inf": "the norm of the gradients is (inf|nan)"}[what]
    (line,) = set(re.findall(r"^\[rank \d\] error: (.*)", run.log(), re.MULTILINE))
    assert line.startswith("step 12: ")
    assert re.search(name, line)
    assert "train.on_nonfinite=skip" in line
    assert str(run.directory / "nonfinite.jsonl") in line
    whole = batch_of(run, 12, 0) + batch_of(run, 12, 1)
    expected = batch_of(run, 12, 1)[:1] if what == "nan" else whole  # all samples of the step are suspects there
    assert [row["index"] for row in suspects(run)] == expected
    assert {row["step"] for row in suspects(run)} == {12}
    assert all(str(row["shard"]).endswith(".tar") and row["key"] for row in suspects(run))
    assert run.saved() == [5, 10]
    assert is_finite(run, 10)
    assert not job.left()


@each_fault
def test_skipped_steps_are_counted_and_change_no_rank(new_run: New, what: str):
    run = new_run(2, "train.on_nonfinite=skip")
    run.finish(fault=f"step:1:12:{what};step:0:20:{what}")
    assert updates(run) == LAST - 2
    assert is_finite(run, LAST)
    rows = run.records()
    assert rows[-1]["skipped_steps"] == 2
    assert [row["step"] for row in rows if row["loss"] is None] == ([12, 20] if what == "nan" else [])
    assert all(f"step {step}: the " in run.log() for step in (12, 20))


@pytest.mark.fault(24)
def test_too_many_bad_steps_in_a_row_end_the_run(new_run: New):
    run = new_run(2, "train.on_nonfinite=skip", "train.max_skips=3")
    job = run.start(fault="step:1:12-30:nan")
    assert job.wait() == [2, 2], run.log()
    assert "step 15: the loss is nan" in run.log()
    assert "after 3 steps in a row (train.max_skips)" in run.log()
    assert is_finite(run, run.saved()[-1])


@pytest.mark.fault(24)
def test_a_skip_is_repeated_alike_after_a_kill(new_run: New):
    whole = new_run(2, "train.on_nonfinite=skip")
    whole.finish(fault="step:1:12:nan")
    run = new_run(2, "train.on_nonfinite=skip")
    job = run.start(fault="step:1:12:nan;step:0:18:kill_all")
    assert set(job.wait()) == {137}
    run.finish()
    assert run.digest() == whole.digest()
    assert run.records()[-1]["skipped_steps"] == 1


@pytest.mark.fault(26)
def test_one_batch_of_huge_images_moves_the_weights_no_further_than_others(new_run: New, undisturbed: New):
    settings = ("train.save_every_steps=1", "train.keep_checkpoints=100", "train.ema_decay=null")
    run = new_run(2, *settings)
    run.finish(fault="step:*:20:scale=1e4")
    flat = [torch.cat([v.flatten().double() for v in run.weights(n).values()]) for n in run.saved()]
    moved = {n: float((after - before).norm()) for n, (before, after) in enumerate(itertools.pairwise(flat), 2)}
    assert moved[20] < 2 * statistics.median(moved[n] for n in range(15, 26) if n != 20)
    losses, others = ([row["loss"] for row in one.records()] for one in (run, undisturbed()))
    assert losses[:19] == others[:19]
    assert losses[19] != others[19]
    assert statistics.fmean(losses[29:39]) < 1.2 * statistics.fmean(others[29:39])
