"""`contrastive data dedup …` as a user types it."""

from pathlib import Path

import pytest

from contrastive.cli.data import run
from contrastive.errors import DataError
from contrastive.recipes.verdicts import column
from tests.recipes.curation.pictures import write_copied


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return write_copied(tmp_path / "copied")


def test_shards_become_verdicts_and_a_table(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert run(["dedup", str(copied), "--out", str(out), "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "duplicate: perceptual" in said
    assert "report.html" in said
    assert column(out / "verdicts.parquet", "kept").sum() == 6


def test_options_reach_the_search(copied: Path, tmp_path: Path):
    words = ["--distance", "0", "--likeness", "1", "--keep", "largest", "--method", "perceptual", "--processes", "1"]
    assert run(["dedup", str(copied), "--out", str(tmp_path / "out"), *words]) == 0
    reasons = column(tmp_path / "out" / "verdicts.parquet", "reason").tolist()
    assert reasons.count("duplicate: exact") == 1
    assert reasons.count("duplicate: perceptual") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--distance", "40"], "40 must be at most 20: half of the bits differ by chance"),
        (["--threshold", "1.2"], "1.2 must lie above 0, and be at most 1"),
        (["--likeness", "much"], "'much' is no number"),
        (["--method", "phash"], "invalid choice: 'phash'"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        run(["dedup", "shards", "--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_evaluation_set_is_named(copied: Path, tmp_path: Path):
    with pytest.raises(DataError, match="--against imagenet0k: there is no such"):
        run(["dedup", str(copied), "--out", str(tmp_path / "out"), "--against", "imagenet0k"])
