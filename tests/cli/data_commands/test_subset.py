"""`contrastive data subset`, `reshard`, `merge` and `add-captions` as a user types them."""

import json
from pathlib import Path

import pytest

from contrastive import cli
from contrastive.cli.data_commands.merge import sources_of
from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError
from contrastive.settings import DataConfig
from tests import toys

ONE = ["--processes", "1"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return toys.write_shards(tmp_path / "shards", 12, 2)


def samples(folder: Path) -> int:
    return len(open_pool(DataConfig(train=str(folder)), Storage()))


def test_a_subset_is_chosen_skipped_and_taken_back(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "keys.txt").write_text("s00001\ns00008\n")
    words = [str(shards), "--exclude", str(tmp_path / "keys.txt"), "--out", str(tmp_path / "out"), "--skip"]
    assert cli.main(["data", "subset", *words, *ONE]) == 0
    assert "training on these shards now reads 10" in capsys.readouterr().out
    assert samples(shards) == 10
    assert cli.main(["data", "index", str(shards), "--forget-quarantine"]) == 0
    assert samples(shards) == 12


def test_a_subset_is_rewritten(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(shards), "--sample", "0.5", "--seed", "3", "--rewrite", str(tmp_path / "out"), "--shard-size", "2"]
    assert cli.main(["data", "subset", *words, *ONE]) == 0
    assert "report: " in capsys.readouterr().out
    assert samples(tmp_path / "out") == 6
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3


def test_shards_are_written_again_in_splits(tmp_path: Path, shards: Path):
    words = [str(shards), "data.caption_key=json.captions", "--out", str(tmp_path / "out"), "--keep-order"]
    assert cli.main(["data", "reshard", *words, "--split", "val=0.4", "test=0.3", *ONE]) == 0
    assert sum(samples(tmp_path / "out" / name) for name in ("train", "val", "test")) == 12


def test_sources_are_merged_by_name(tmp_path: Path, shards: Path):
    words = [f"one={shards}", str(toys.write_shards(tmp_path / "two", 3, 1)), "--out", str(tmp_path / "out")]
    assert cli.main(["data", "merge", *words, *ONE]) == 0
    assert samples(tmp_path / "out") == 15
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["figures"]["from one"], report["figures"]["from two"]) == (12, 3)


def test_captions_are_added(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "c.csv").write_text("id,text\ns00001,new\n")
    words = [str(shards), "--captions", str(tmp_path / "c.csv"), "--key-column", "id", "--caption-column", "text"]
    assert cli.main(["data", "add-captions", *words, "--out", str(tmp_path / "out"), *ONE]) == 0
    assert "data.caption_key={txt: 0.3, json.recaption: 0.7}" in capsys.readouterr().out
    assert samples(tmp_path / "out") == 12


@pytest.mark.parametrize("command", ["subset", "reshard", "merge", "add-captions"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.count(f"contrastive data {command} ") >= 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["subset", "{folder}/shards", "--out", "x"], "nothing says which samples"),
        (
            ["subset", "{folder}/shards", "--sample", "2", "--rewrite", "x", "--skip"],
            "--skip: is for the shards as they",
        ),
        (["subset", "{folder}/none", "--sample", "2", "--out", "x"], "none does not exist"),
        (["reshard", "{folder}/shards", "--out", "x", "--split", "val"], "--split val: must be a name and a share"),
        (["reshard", "{folder}/shards", "--out", "{folder}/shards"], "holds "),
        (["merge", "{folder}/shards", "--out", "x"], "merge: there is one source"),
        (["add-captions", "{folder}/shards", "--captions", "none.csv", "--out", "x"], "--captions none.csv: no such"),
        (
            ["add-captions", "{folder}/shards", "--captions", "c", "--field", "a.b", "--as", "member", "--out", "x"],
            "--field",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path,
    shards: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *(word.format(folder=tmp_path) for word in words), *ONE]) == 2
    error = capsys.readouterr().err
    assert said in error.replace("\n", " ")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("amount", ["0", "1.5", "-3", "many", "0.0"])
def test_a_sample_is_a_number_or_a_share(amount: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "subset", "x", f"--sample={amount}", "--out", "y"])
    assert ended.value.code == 2
    assert "--sample" in capsys.readouterr().err


def test_sources_are_called_as_their_folders():
    found = sources_of(["/data/cc3m/{000..009}.tar", "b=/x/y.tar", "s3://bucket/coco/*.tar", "/data/sbu/"])
    assert list(found) == ["cc3m", "b", "coco", "sbu"]
    assert found["b"] == "/x/y.tar"
    with pytest.raises(ConfigError, match=r"a/x and b/x are both called 'x'; name them, like a=a/x b=b/x"):
        sources_of(["a/x", "b/x"])
