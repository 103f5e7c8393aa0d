"""Arguments, figures and the smallest rows of the benchmark of cached steps; the comparison itself is no test."""

import io
import json
import mmap
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import caching


def steps(seconds: float, mib: float, difference: float = 3e-8) -> list[caching.Step]:
    plain = caching.Step("plain", 10.0, 20.0, 4000.0)
    small = caching.Step("64", seconds, 2 * seconds, mib, difference)
    return [plain, small, caching.Step("open_clip 512", 30.0, 60.0, 500.0, 0.02)]


ROUNDS = [steps(12, 200), steps(20, 220), steps(13, 180, 5e-8)]


def test_quick_is_one_round_of_one_thread_unless_told_otherwise():
    assert (caching.parse(["--quick"]).rounds, caching.parse([]).rounds) == (1, 3)
    assert caching.parse(["--quick", "--rounds", "2", "--threads", "3"]).rounds == 2
    assert caching.parse([]).threads == 1


def test_wrong_arguments_end_with_status_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        caching.parse(["--rounds", "0"])
    assert stopped.value.code == 2


def test_ratios_are_of_the_same_round_and_the_difference_is_that_of_our_rows():
    found = caching.figures(ROUNDS)
    assert found["ratio_64"] == pytest.approx(1.3)
    assert found["memory_64"] == pytest.approx(0.05)
    assert found["difference"] == 5e-8
    assert found["plain_mib"] == 4000
    assert found["ratio_open_clip_512"] == 3.0


def test_the_table_has_a_line_a_row_and_the_record_is_json():
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(caching.table(ROUNDS))
    assert "open_clip 512" in console.export_text()
    record = json.loads(json.dumps(caching.record(ROUNDS, caching.parse([]))))
    assert len(record["rounds"]) == 3
    assert record["machine"]["torch"]


@pytest.mark.parametrize(("mib", "difference", "status"), [(200, 1e-8, 0), (600, 1e-8, 1), (200, 2e-6, 1)])
def test_the_status_is_1_when_a_goal_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mib: float, difference: float, status: int
):
    monkeypatch.setattr(caching, "run_round", lambda options: steps(12, mib, difference))
    assert caching.main(["--quick"]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert dict(pair.split("=") for pair in last.split())["memory_64"] == f"{mib / 4000:.3g}"


def test_a_process_that_fails_is_status_2(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caching, "__file__", "/nowhere.py")
    assert caching.main(["--quick"]) == 2


def weights_after(row: caching.Row) -> dict[str, torch.Tensor]:
    task = caching.make(caching.QUICK)
    caching.run_step(row, Accelerator(cpu=True), task, caching.batch(12))
    return {name: parameter.detach() for name, parameter in task.named_parameters()}


def test_our_rows_end_at_the_plain_weights_and_the_recipe_has_another_temperature():
    plain, cached = weights_after(caching.PLAIN), weights_after(caching.Row("5", 5, 4))
    recipe = weights_after(caching.Row("peer", 4, 4, is_ours=False))
    assert caching.apart(cached, plain) < caching.EXACT
    assert caching.apart(recipe, plain) > caching.EXACT


def test_the_peak_of_memory_begins_anew():
    before = caching.start_peak()
    with mmap.mmap(-1, 64 << 20) as kept:
        for page in range(0, len(kept), mmap.PAGESIZE):
            kept[page] = 1
        assert caching.peak_mib() - before >= 60
    assert caching.start_peak() - before < 60
