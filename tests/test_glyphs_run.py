"""The built-in run, shortened: recipe, training and evaluation together learn what transfers to unseen data."""

import subprocess
import sys
from pathlib import Path

import pytest

from contrastive import cli
from tests.toys import records

ROOT = Path(__file__).parents[1]
# dataset: (metric, what three epochs must reach at least); chance is 0.1, 0.002 and 0.002
GOALS = {
    "digits": ("top1", 0.45),
    "faces": ("image_to_text_recall@5", 0.5),
    "characters": ("image_to_text_recall@5", 0.3),
}


@pytest.mark.slow
def test_three_epochs_of_the_built_in_run_learn_what_it_never_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    subprocess.run([sys.executable, ROOT / "data_recipes" / "glyphs.py", "--out", "data/glyphs"], check=True)
    short = ["train.total_samples=60000", "optim.warmup_samples=6000", "run.directory=run"]
    assert cli.pretrain(["configs/glyphs.yaml", *short]) == 0
    found = {
        row["dataset"]: row for row in records(tmp_path / "run", "eval") if row["task"] in ("zeroshot", "retrieval")
    }
    for dataset, (metric, goal) in GOALS.items():
        assert found[dataset]["metrics"][metric] >= goal, dataset
        assert found[dataset]["chance"][metric] < goal / 2
