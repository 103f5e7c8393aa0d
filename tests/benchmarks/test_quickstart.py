import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "quickstart.py"
RECALLS = [f"image_to_text_recall@{k}{tail}" for k in (1, 5) for tail in ("", "_lookalikes")]


def result(dataset: str, metrics: dict[str, float]) -> dict:
    chance = dict.fromkeys(metrics, 0.01)
    task = "zeroshot" if dataset == "digits" else "retrieval"
    return {
        "dataset": dataset,
        "task": task,
        "metrics": metrics,
        "chance": chance,
        "details": {"counts": {"texts": 2192}},
    }


def write_run(folder: Path, digits: float) -> Path:
    folder.mkdir(parents=True)
    recalls = dict(zip(RECALLS, (0.5, 0.6, 0.9, 0.95), strict=True))
    content = [result("digits", {"top1": digits}), result("faces", recalls), result("characters", recalls)]
    content.append({**result("faces", {"modality_gap": 0.2}), "task": "geometry"})
    (folder / "evaluation.json").write_text(json.dumps(content))
    (folder / "finished.json").write_text(json.dumps({"seconds": 123.4}))
    return folder


def test_the_summary_is_one_line_that_scripts_read(tmp_path: Path):
    run = write_run(tmp_path / "run", 0.8)
    done = subprocess.run([sys.executable, SCRIPT, "--summary", run], capture_output=True, text=True)
    expected = (
        f"digits_top1=0.800 faces_r1=0.500 faces_r5=0.900 chars_r5=0.900 names=2192 train_seconds=123 report={run}"
    )
    assert done.stdout == f"QUICKSTART {expected}/report.html\n"
    assert done.returncode == 0


@pytest.mark.parametrize(("digits", "status"), [([0.7, 0.8, 0.9], 0), ([0.7, 0.7, 0.9], 1)])
def test_the_median_of_the_seeds_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits, status):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import quickstart

    monkeypatch.setattr(quickstart, "train", lambda run, *overrides: write_run(run, digits[int(run.name[-1])]))
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--runs", str(tmp_path), "--json", str(tmp_path / "out.json")])
    assert quickstart.main() == status
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["digits_top1"] == sorted(digits)[1]
    assert written["faces_r5"] == 0.9
