"""Goals, figures and processes of the benchmark of the formats; the comparison itself is a benchmark, not a test."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import export
import export_report
import export_turns
from export_turns import Plan, Row

from contrastive.export.probe import Probe, built_in_probe
from contrastive.registry import EXPORTERS
from tests.export.toys import source

PLACES = [(tower, batch) for tower in ("image", "text") for batch in (1, 32)]


def row(side: str, scale: float, size: int, cosine: float = 1.0) -> Row:
    """Return a side whose calls take `scale` times those of a machine that is twice as busy in the second round."""
    turns = {place: [[scale * busy * call for call in (0.010, 0.011, 0.030)] for busy in (1, 2)] for place in PLACES}
    return Row(side, size, 1.0, turns, turns, {"image": cosine, "text": 1.0})


def rows(onnx: float = 1.0, int8: float = 0.5, size: int = 30, cosine: float = 0.995) -> list[Row]:
    absent = Row("timm", reason="skipped: model.vision_cfg: a ResNet")
    return [row("eager", 1, 100), absent, row("onnx", onnx, 100), row("onnx_int8", int8, size, cosine)]


def test_ratios_compare_calls_of_the_same_round():
    found = rows(onnx=1.1)
    assert export_report.ratio(found[2], found, ("image", 32)) == pytest.approx(1.1)
    assert export_report.ratio(found[1], found, ("image", 32)) is None
    assert export_report.percentile(found[0], ("text", 1), 50) == pytest.approx(1000 * (0.020 + 0.022) / 2)
    assert export_report.percentile(Row("none"), ("text", 1), 95) is None


def test_the_worst_of_towers_and_batches_counts():
    found = rows()
    found[2].seconds[("text", 1)] = [[0.02], [0.04]]
    figures = export_report.figures(found)
    assert figures["onnx_time"] == pytest.approx(0.02 / 0.011)
    assert figures["onnx_time_32"] == pytest.approx(1.0)
    assert (figures["onnx_int8_time_32"], figures["onnx_int8_size"]) == (pytest.approx(0.5), 0.3)
    assert figures["onnx_int8_cosine"] == 0.995
    assert "timm_image_1" not in figures


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"onnx": 1.2}, ["onnx_time is 1.2, above 1.15"]),
        ({"int8": 0.8}, ["onnx_int8_time_32 is 0.8, above 0.7"]),
        ({"size": 36}, ["onnx_int8_size is 0.36, above 0.35"]),
        ({"cosine": 0.98}, ["onnx_int8_cosine is 0.98, below 0.99"]),
        ({"cosine": float("nan")}, ["onnx_int8_cosine is nan, below 0.99"]),
    ],
)
def test_goals_that_are_missed_are_named(changes: dict[str, float], missed: list[str]):
    figures = export_report.figures(rows(**changes))
    assert export_report.verdicts(figures, False, {"avx_vnni"}) == (missed, [])
    quick, unjudged = export_report.verdicts(figures, True, {"avx_vnni"})
    assert quick == [text for text in missed if "time" not in text]
    assert len(unjudged) == 2


def test_int8_is_not_judged_on_a_processor_without_instructions_for_it(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("model name: old\nflags: avx avx2 fma\n")
    has = export_report.flags(tmp_path / "cpuinfo")
    missed, unjudged = export_report.verdicts(export_report.figures(rows(int8=2.0)), False, has)
    assert (has, missed) == (set(), [])
    assert unjudged == ["onnx_int8_time_32: this processor has none of amx_int8, avx512_vnni, avx_vnni"]
    (tmp_path / "cpuinfo").write_text("flags: avx512_vnni amx_int8\n")
    assert export_report.flags(tmp_path / "cpuinfo") == {"avx512_vnni", "amx_int8"}


def test_every_format_of_the_table_but_the_one_that_wraps_another_is_measured():
    assert {name for name, _, _ in export_turns.SIDES.values()} == set(EXPORTERS) - {"sentence_transformers"}


def test_tables_last_line_record_and_plot_hold_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(export, "measure", lambda *_: rows(onnx=1.5))
    monkeypatch.setattr(export, "model", lambda options: argparse.Namespace(form="a model"))
    report, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert export.main(["--json", str(report), "--plot", str(picture)]) == 1
    said = capsys.readouterr().out
    assert "timm: skipped: model.vision_cfg: a ResNet" in said
    figures = {name: float(value) for name, value in (part.split("=") for part in said.splitlines()[-1].split())}
    written: dict[str, Any] = json.loads(report.read_text())
    assert figures == pytest.approx(written["figures"])
    assert written["missed"] == ["onnx_time is 1.5, above 1.15"]
    assert written["rows"][2]["latency"]["image_32"]["ratio"] == pytest.approx(1.5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(export, "measure", lambda *_: rows())
    monkeypatch.setattr(export_report, "VNNI", set())
    assert export.main(["--quick"]) == 0


def test_eager_is_always_measured_and_first():
    assert export.parse(["--formats", "onnx"]).formats == ["eager", "onnx"]
    assert export.parse([]).formats == list(export_turns.SIDES)


def test_a_format_that_there_is_not_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert export.main(["--formats", "tensorrt"]) == 2
    assert "--formats: 'tensorrt' is not one of eager, open_clip" in capsys.readouterr().err


@pytest.mark.slow  # imports torch and open_clip in processes of their own
def test_sides_take_turns_in_processes_of_their_own_and_give_our_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = source("vit", tmp_path)
    whole = built_in_probe()
    plan = Plan(["eager", "open_clip", "timm"], {1: 2, 4: 1}, rounds=2, threads=1, timeout_seconds=120)
    monkeypatch.setattr(export_turns, "SIDES", {**export_turns.SIDES, "timm": ("nowhere:Gone", {}, "timm")})
    measured = export_turns.measure(found, Probe(whole.images[:4], whole.texts[:4]), plan, tmp_path, _quiet())
    eager, open_clip, absent = measured
    assert absent.reason.startswith("skipped: --to.name: 'nowhere:Gone' cannot be imported")
    for one in (eager, open_clip):
        assert {place: [len(turn) for turn in turns] for place, turns in one.seconds.items()} == {
            ("image", 1): [2, 2], ("image", 4): [1, 1], ("text", 1): [2, 2], ("text", 4): [1, 1]
        }  # fmt: skip
    assert min(open_clip.cosine.values()) > 0.999999
    assert eager.bytes > 1e6


def test_a_process_that_fails_says_why_in_its_row(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(1))
    plan = Plan(["onnx"], {1: 1}, 1, 1, 60)
    worker = export_turns.Worker("onnx", tmp_path, (str(tmp_path / "x.npy"), str(tmp_path / "x.npy")), plan)
    failed, workers = Row("onnx"), {"onnx": worker}
    assert export_turns.ask(failed, workers, None) is None
    worker.close()
    assert (workers, failed.reason.startswith("ended with status 1: ")) == ({}, True)


def _quiet() -> Console:
    return Console(file=io.StringIO())
