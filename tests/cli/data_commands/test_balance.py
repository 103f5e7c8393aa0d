"""`contrastive data balance` as a user types it."""

from pathlib import Path

import pytest
from pyarrow import parquet

from contrastive import cli
from tests.recipes.curation.pools import Made, write


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    captions = ["a dog", "a dog and a cat", "nothing here"] * 10
    return write(tmp_path / "shards", [Made(f"k{at:02d}", one) for at, one in enumerate(captions)], 2)


def test_captions_are_balanced_over_a_list(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    entries, out = tmp_path / "entries.json", tmp_path / "out"
    entries.write_text('["dog", "cat"]')
    words = ["--entries", str(entries), "--t", "10", "--seed", "3", "--processes", "1", "--out", str(out)]
    assert cli.main(["data", "balance", str(shards), *words]) == 0
    said = capsys.readouterr().out
    assert "no entry matches" in said
    assert f"{out / 'entries.csv'}: all entries" in said
    table = parquet.read_table(out / "verdicts.parquet").to_pylist()
    assert all(row["kept"] for row in table[1::3])  # the cat is in the tail
    assert not any(row["kept"] for row in table[2::3])
    assert table[0]["keep_probability"] == 0.5


def test_entries_and_t_may_come_from_the_data(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--entries-from-captions", "8", "--tail-share", "0.3", "--keep-unmatched", "--processes", "1"]
    assert cli.main(["data", "balance", str(shards), *words, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/entries.txt").read_text().startswith("a\na dog\ndog\n")
    assert "entry 'a dog', before and after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--entries", "absent.txt", "--t", "5"], "absent.txt: cannot be read: No such file"),
        (["--entries-from-captions", "5", "--tail-share", "0"], "--tail-share 0: must be more than 0"),
    ],
)
def test_a_mistake_is_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert cli.main(["data", "balance", str(shards), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_one_source_of_entries_and_one_t_are_asked_for(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "balance", "s", "--out", "o", "--entries", "a", "--t", "5", "--tail-share", "0.1"])
    assert left.value.code == 2
    assert "not allowed with argument --t" in capsys.readouterr().err
