"""`contrastive data embed` as a user types it."""

import json
from pathlib import Path

import pytest

from contrastive import cli
from tests.recipes.embedding_toys import model

CAPTION = "data.caption_key=json.captions"


def test_it_embeds_and_says_what_it_found(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny, out = str(model(tmp_path / "model" / "step-1")), tmp_path / "out"
    words = ["data", "embed", str(shards), CAPTION, "--model", tiny, "--out", str(out), "--chunk", "16"]
    assert cli.main([*words, "--batch-size", "8", "--workers", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "mean clip_score" in said
    assert f"report: {out / 'report.html'}" in said
    assert json.loads((out / "embed.json").read_text())["chunk"] == 16
    assert cli.main([*words, "--precision", "bf16"]) == 2
    assert "embed.json: was begun otherwise: --precision is bf16, and was fp32" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "embed", str(shards), "--model", "nowhere", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "error: nowhere: there is no such folder, nor a model of that name" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: --model, --out"),
        (("--model", "a", "--out", "b", "--chunk", "0"), "0 must be at least 1"),
        (("--model", "a", "--out", "b", "--captions", "some"), "invalid choice: 'some'"),
    ],
)
def test_options_are_refused_at_the_door(
    words: tuple[str, ...], message: str, shards: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        cli.main(["data", "embed", str(shards), *words])
    assert message in capsys.readouterr().err


def test_help_shows_how_many_processes_are_started(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        cli.main(["data", "embed", "--help"])
    assert done.value.code == 0
    assert "accelerate launch" in capsys.readouterr().out
