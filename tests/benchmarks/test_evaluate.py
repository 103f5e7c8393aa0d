"""Data, figures and goals of the comparison with CLIP_benchmark; the comparison itself is a benchmark, not a test."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import evaluate
import evaluate_data
import evaluate_peer
import evaluate_worker

from contrastive.eval.datasets import open_dataset
from contrastive.eval.spec import DatasetSpec

RECALLS = {"image_retrieval_recall@1": 0.5, "text_retrieval_recall@1": 0.75}
SCORING = {
    "theirs": [{"cpu": 40.0, "clock": 50.0, "mib": 5000.0, "recalls": RECALLS}] * 2,
    "ours": [{"cpu": cpu, "clock": 5.0, "mib": 300.0, "recalls": RECALLS} for cpu in (2.0, 2.5)],
}
METRICS = {name: 0.5 for names in evaluate.METRICS.values() for name in names}


def turns(both: float = 50.0, zeroshot: float = 32.0, retrieval: float = 40.0) -> evaluate.Turns:
    clocks = {
        "theirs zeroshot": 40.0,
        "theirs retrieval": 80.0,
        "ours both": both,
        "ours zeroshot": zeroshot,
        "ours retrieval": retrieval,
    }
    return {name: [{"clock": clock, "cpu": 2 * clock, "metrics": METRICS}] * 2 for name, clock in clocks.items()}


def test_two_runs_of_theirs_stand_against_one_pass_of_ours():
    assert evaluate.ratios(turns(), *evaluate.comparisons(turns())["both"]) == [2.4, 2.4]
    found = evaluate.figures(SCORING, {"fp32": turns()})
    assert found["scoring_ratio"] == 18.0
    assert (found["both_ratio"], found["retrieval_ratio"]) == (2.4, 2.0)


def test_the_worse_of_two_precisions_counts():
    found = evaluate.figures(SCORING, {"fp32": turns(), "bf16": turns(both=100.0)})
    assert found["both_ratio"] == 1.2
    assert (found["difference_fp32"], found["difference_bf16"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"scoring_ratio": 11.9}, ["scoring_ratio"]),
        ({"both_ratio": 1.79}, ["both_ratio"]),
        ({"zeroshot_ratio": 0.99}, ["zeroshot_ratio"]),
        ({"retrieval_ratio": float("nan")}, ["retrieval_ratio"]),
        ({"scoring_mib": 1025.0}, ["scoring_mib"]),
        ({"scoring_difference": float("nan")}, ["scoring_difference"]),
    ],
)
def test_goals_that_are_missed_are_named(changes: dict[str, float], missed: list[str]):
    found = {**evaluate.figures(SCORING, {"fp32": turns()}), **changes}
    assert evaluate.misses(found, quick=False) == missed
    assert evaluate.misses(found, quick=True) == [name for name in missed if name in evaluate.MOST]


def test_another_metric_than_theirs_is_a_difference():
    other = turns()
    other["ours both"] = [{**other["ours both"][0], "metrics": {**METRICS, "acc1": 0.25}}] * 2
    assert evaluate.difference(other) == 0.25


def test_the_last_line_and_the_record_hold_all_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(evaluate, "environment", lambda console, cache: cache)
    monkeypatch.setattr(evaluate, "make", lambda folder, images, classes: None)
    monkeypatch.setattr(evaluate, "make_model", lambda folder, name: folder)
    monkeypatch.setattr(evaluate, "score_in_turns", lambda *_: SCORING)
    monkeypatch.setattr(evaluate, "run_in_turns", lambda kind, *_: turns(both=60.0 if kind == "bf16" else 50.0))
    report = tmp_path / "r.json"
    assert evaluate.main(["--json", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = dict(part.split("=") for part in lines[-1].split())
    written = json.loads(report.read_text())
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(written["figures"])
    assert figures["both_ratio"] == "2"
    assert any("2.40 (2.40" in line for line in lines)
    monkeypatch.setattr(evaluate, "LEAST", {"both_ratio": 2.1})
    assert evaluate.main([]) == 1


def test_one_folder_of_tars_serves_both_tasks_and_both_sides(tmp_path: Path):
    data = evaluate_data.make(tmp_path, 8, 3)
    for name, folder in (("zeroshot", data.classification), ("retrieval", data.retrieval)):
        found = open_dataset(DatasetSpec(name="photos", root=str(folder)))
        assert (len(found), found.tasks[0]["name"]) == (8, name)
    both = open_dataset(DatasetSpec(name="photos", root=str(data.classification), tasks=("zeroshot", "retrieval")))
    assert (len(both.classnames), len(both.documents), len(set(both.texts))) == (3, 40, 40 + 3 * 7)
    assert both.image(0).size == evaluate_data.SIZE
    with tarfile.open(data.retrieval / "test" / "0.tar") as tar:
        image = tar.extractfile("s0000000.jpg")
        assert image is not None
        assert Image.open(io.BytesIO(image.read())).format == "JPEG"
    before = (data.classification / "test" / "0.tar").stat().st_mtime_ns
    assert evaluate_data.make(tmp_path, 8, 3) == data
    assert (data.classification / "test" / "0.tar").stat().st_mtime_ns == before


def test_our_side_of_the_metrics_is_right():
    images, texts = evaluate_worker.embeddings(40)
    own = torch.arange(len(texts)) // evaluate_worker.CAPTIONS
    order = (texts @ images.T).argsort(1, descending=True)
    expected = (order[:, :5] == own[:, None]).any(1).float().mean().item()
    assert evaluate_worker.ours(images, texts)()["image_retrieval_recall@5"] == pytest.approx(expected, abs=1e-6)


def test_the_peers_command_is_a_users_in_full_precision(tmp_path: Path):
    words = evaluate_peer.command("m", "wds/x", tmp_path, tmp_path / "o.json", {"recall_k": (1, 5), "batch_size": 2})
    assert words[1:4] == ["-m", "clip_benchmark.cli", "eval"]
    assert words[words.index("--recall_k") :][:3] == ["--recall_k", "1", "5"]
    assert "--no_amp" in words


def test_our_metrics_are_read_by_their_names():
    one: dict[str, Any] = {"top1": {"value": 0.5}, "mean_recall": {"value": 0.1}}
    assert evaluate.our_metrics({"results": [{"metrics": one}]}) == {"acc1": 0.5}
