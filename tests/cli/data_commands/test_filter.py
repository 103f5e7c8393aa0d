"""`contrastive data filter` as a user types it."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive import cli
from tests.recipes.curation.pools import Made, write


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    samples = [Made(f"k{at}", f"dog number {at}", 10 + at, 20, {"punsafe": at / 10}) for at in range(10)]
    return write(tmp_path / "shards", samples, 2)


def run(shards: Path, out: Path, *words: str) -> list[str]:
    assert cli.main(["data", "filter", str(shards), "--out", str(out), "--processes", "1", *words]) == 0
    table = parquet.read_table(out / "verdicts.parquet")
    keys = zip(table["key"].to_pylist(), table["kept"].to_pylist(), strict=True)
    return [key for key, is_kept in keys if is_kept]


def test_flags_are_filters(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "words.txt").write_text("number 5\n")
    flags = ["--min-side", "12", "--max-aspect", "1.5", "--min-words", "3", "--drop-words", str(tmp_path / "words.txt")]
    assert run(shards, tmp_path / "out", *flags) == ["k4", "k6", "k7", "k8", "k9"]
    said = capsys.readouterr().out
    assert "image: too small" in said
    assert "caption: unwanted words" in said
    assert f"report: {tmp_path / 'out/report.html'}" in said
    assert f"contrastive data subset SHARDS --list {tmp_path / 'out/verdicts.parquet'}" in said


def test_columns_scores_and_fields_are_filters(shards: Path, tmp_path: Path):
    scores = tmp_path / "scores.parquet"
    table = pa.table({"key": [f"k{at}" for at in range(10)], "clip_score": [at / 10 for at in range(10)]})
    parquet.write_table(table.append_column("kind", pa.array(["a", "b"] * 5)), scores)
    assert run(shards, tmp_path / "1", "--clip-score", str(scores), "--top", "0.3") == ["k7", "k8", "k9"]
    assert run(shards, tmp_path / "2", "--clip-score", str(scores), "--min-clip-score", "0.85") == ["k9"]
    assert run(shards, tmp_path / "3", "--column", "json.punsafe", "--max", "0.1") == ["k0", "k1"]
    assert run(shards, tmp_path / "4", "--column", f"{scores}:kind", "--equals", "b")[:2] == ["k1", "k3"]
    assert run(shards, tmp_path / "5", "--column", f"{scores}:clip_score", "--min", "0.2", "--max", "0.3") == [
        "k2",
        "k3",
    ]


def test_preset_flags_and_rules_are_asked_in_this_order(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {name: aspect, max: 1.5}\n- {name: column, column: json.punsafe, max: 0.5}\n")
    words = ["--preset", "datacomp-basic", "--language", "en", "--language", "de", "--rules", str(rules)]
    assert run(shards, tmp_path / "out", *words) == []
    names = [rule["name"] for rule in json.loads((tmp_path / "out/report.json").read_text())["provenance"]["rules"]]
    assert names == ["caption_length", "language", "resolution", "aspect", "language", "aspect", "column"]
    assert "DataComp tells the language by fastText" in capsys.readouterr().out


def test_a_trial_writes_no_verdicts(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--min-side", "12", "--sample", "4", "--processes", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["data", "filter", str(shards), *words]) == 0
    assert not (tmp_path / "out/verdicts.parquet").exists()
    assert "data subset" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "filter: no rule; give --preset, --rules or some of the flags"),
        (["--top", "0.3"], "--top: says nothing without --clip-score; give both"),
        (["--min", "0.3"], "--min: says nothing without --column; give both"),
        (["--min-language-probability", "0.3"], "--min-language-probability: says nothing without --language"),
        (["--column", "punsafe", "--min", "3"], "--column punsafe: must be FILE:NAME, or json.FIELD"),
        (["--column", "json.a"], "column json.a: set min, max, top or equals"),
        (["--clip-score", "absent.parquet", "--top", "0.3"], "absent.parquet: cannot be read as Parquet"),
        (["--language", "eng"], "language.keep: 'eng' is no ISO code of py3langid; did you mean en?"),
        (["--drop-words", "absent.txt"], "absent.txt: cannot be read"),
        (["--preset", "datacomp"], "--preset: 'datacomp' is not one of datacomp-basic"),
    ],
)
def test_a_mistake_is_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert cli.main(["data", "filter", str(shards), "--out", str(tmp_path / "out"), "--processes", "1", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "filter", "--help"])
    assert left.value.code == 0
    assert "--preset datacomp-basic --out kept" in capsys.readouterr().out
