import json
from pathlib import Path

import pytest

from contrastive import cli
from tests import toys


def test_doctor_is_a_command_whose_status_says_whether_a_run_would_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shards, report = str(toys.write_shards(tmp_path / "my shards", 40, 3)), str(tmp_path / "d.json")
    words = ["data", "doctor", shards, "--size", "16", "--seconds", "0", "--processes", "1", "--json", report]
    assert cli.main([*words, "data.global_batch_size=8", "--samples", "10"]) == 0
    said = capsys.readouterr().out
    assert "Nothing to fix." in said
    assert "looked at" in said
    assert json.loads(Path(report).read_text())["looked_at"] == 10
    assert cli.main([*words, "data.global_batch_size=64"]) == 1
    said = capsys.readouterr().out
    assert "1. stops the run: a batch of 64 is more than the 40 samples of an epoch" in said


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "doctor", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--step-seconds", "0"], ["--seconds", "x"], ["--seconds", "-1"]])
def test_times_are_checked(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["data", "doctor", "shards", *words])
    assert f"argument {words[0]}" in capsys.readouterr().err
