"""`contrastive data …` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from contrastive import cli
from tests import toys
from tests.data.test_rows import spoilt

CAPTION = "data.caption_key=json.captions"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return toys.write_shards(tmp_path / "shards", 40, 3)


def test_index_says_what_the_shards_hold(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    toys.write_tar(shards / "9.tar", [("a.png", toys.encode(toys.image(1))), ("b.txt", b"alone")])
    assert cli.main(["data", "index", str(shards), "--json", str(tmp_path / "i.json")]) == 0
    said = capsys.readouterr().out
    assert "40 samples in 4 shards" in said
    assert "1 no caption" in said
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["samples"] == 40
    assert found["sources"]["shards"]["not usable"] == {"no caption": 1, "no image": 1}
    assert (shards / "manifest.json").exists()
    assert json.loads((shards / "sizes.json").read_text())["9.tar"] == 0


def test_what_verify_finds_index_leaves_out_and_counts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place, bad = str(spoilt(tmp_path / "shards")), str(tmp_path / "bad.jsonl")
    assert cli.main(["data", "verify", place, CAPTION, "--quarantine", bad, "--json", str(tmp_path / "v.json")]) == 1
    said = capsys.readouterr().out
    assert "10 of 10 samples in 1 shards checked, 2 cannot be used (20.000%)" in said
    assert "image: not an image" in said
    found = json.loads((tmp_path / "v.json").read_text())
    assert (found["checked"], found["bad"], found["failures"][0]["samples"]) == (10, 2, 2)
    assert cli.main(["data", "verify", place, CAPTION, "--quarantine", bad]) == 2
    assert f"--quarantine {bad}: exists; name a new file" in capsys.readouterr().err
    assert cli.main(["data", "index", place, CAPTION, "--quarantine", bad]) == 0
    assert "8 samples" in capsys.readouterr().out
    assert cli.main(["data", "verify", place, CAPTION]) == 0
    assert "2 quarantined" in capsys.readouterr().out
    assert cli.main(["data", "index", place, CAPTION, "--refresh"]) == 0
    assert "8 samples" in capsys.readouterr().out
    assert cli.main(["data", "index", place, CAPTION, "--forget-quarantine"]) == 0
    assert "10 samples" in capsys.readouterr().out


def test_verify_goes_through_damaged_shards_and_says_so(shards: Path, capsys: pytest.CaptureFixture[str]):
    tar = shards / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    assert cli.main(["data", "verify", str(shards), CAPTION]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"damaged: {tar} " in said
    assert "0 cannot be used" in said
    assert "1 damaged shards" in said


def test_verify_of_a_sample_looks_at_so_many(shards: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "verify", str(shards), CAPTION, "--sample", "7", "--processes", "1"]) == 0
    assert "7 of 40 samples in 3 shards checked, 0 cannot be used" in capsys.readouterr().out


def test_stats_shows_writes_and_draws(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture, report = tmp_path / "s.png", tmp_path / "s.json"
    arguments = ["stats", str(shards), "--picture", str(picture), "--json", str(report), "--processes", "1"]
    assert cli.main(["data", *arguments]) == 0
    said = capsys.readouterr().out
    assert "40 of 40 samples" in said
    assert "images that occurred before: 0 (0.00%)" in said
    found = json.loads(report.read_text())
    assert found["quantiles"]["width"] == dict.fromkeys(
        ("least", "1 %", "25 %", "median", "75 %", "99 %", "most", "mean"), toys.SIZE
    )
    with Image.open(picture) as image:
        assert image.width == 1200


def test_the_shuffle_report_has_a_column_each(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = tmp_path / "r.json"
    arguments = ["--batch-size", "8", "--ranks", "1", "--workers", "2", "--json", str(report)]
    assert cli.main(["data", "shuffle-report", str(shards), *arguments]) == 0
    said = capsys.readouterr().out
    assert "batches of 8 from 40 samples in 3 shards, 1 lanes" in said
    assert "open_clip, 1 x 2" in said
    found = json.loads(report.read_text())["shards"]
    assert 2 < found["ours"]["shards_per_batch"] <= 3
    assert found["open_clip"]["shards_per_batch"] < found["ours"]["shards_per_batch"]


def test_the_shuffle_report_says_where_open_clip_does_not_run(shards: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["data", "shuffle-report", str(shards), "--batch-size", "8"]) == 0
    said = capsys.readouterr().out
    assert "open_clip does not run here: some of its 8 x 4 readers would have no batch" in said
    assert "nan" not in said


def test_bench_names_what_limits(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = tmp_path / "b.json"
    arguments = ["--seconds", "0.1", "--size", "32", "--workers", "0", "--json", str(report)]
    assert cli.main(["data", "bench", str(shards), "data.global_batch_size=8", *arguments]) == 0
    said = capsys.readouterr().out
    assert "What limits is" in said
    assert "loader processes" not in said
    found = json.loads(report.read_text())
    assert found["samples"] > 0
    assert found["limit"] in found["seconds"]


def test_a_mixture_from_a_run_s_file_has_a_table_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    toys.write_shards(tmp_path / "a", 10, 1)
    toys.write_shards(tmp_path / "b", 20, 2)
    run = tmp_path / "run.yaml"
    run.write_text(f"data: {{sources: {{web: {tmp_path}/a, books: {{shards: {tmp_path}/b, weight: 2}}}}}}\n")
    assert cli.main(["data", "index", str(run)]) == 0
    said = capsys.readouterr().out
    assert "30 samples in 3 shards" in said
    assert "web" in said
    assert "books" in said
    assert cli.main(["data", "shuffle-report", str(run), "--batch-size", "4"]) == 0
    assert "books: batches of 4 from 20 samples" in capsys.readouterr().out
    assert cli.main(["data", "index", str(run), str(tmp_path / "a")]) == 0  # shards win over the file's
    assert "10 samples in 1 shards" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{folder}/nowhere"], "data.train: {folder}/nowhere does not exist"),
        (["verify", "{folder}/{{0..3}}.tar"], "0.tar does not exist (4 of 4 shards are missing)"),
        (["index"], "no file: names no shards in data.train or data.sources"),
        (["index", "{folder}/none.yaml"], "none.yaml: no such file"),
        (["index", "{folder}/empty.yaml"], "empty.yaml: names no shards in data.train or data.sources"),
        (["index", "pipe:cat x.tar"], "would run a shell command"),
        (["stats", "{folder}/shards", "--picture", "s.bmp"], "--picture s.bmp: must end in .png, .svg, .pdf"),
        (["stats", "{folder}/shards", "data.caption_key=json.nope"], "no sample can be read"),
        (["stats", "{folder}/shards", "data.captionkey=txt"], "data.captionkey"),
        (["shuffle-report", "{folder}/shards", "data.image_key=gif"], "no sample has a member gif"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    toys.write_shards(tmp_path / "shards", 4)
    (tmp_path / "empty.yaml").write_text("data: {workers: 0}\n")
    assert cli.main(["data", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert message.format(folder=tmp_path) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "x", "--min-side", "0"], "0 must be at least 1"),
        (["stats", "x", "--sample", "-3"], "-3 must not be negative"),
        (["bench", "x", "--workers", "two"], "'two' is no whole number"),
        (["weigh", "x"], "invalid choice: 'weigh'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_may_stand_anywhere(shards: Path, capsys: pytest.CaptureFixture[str]):
    for arguments in (
        ["index", CAPTION, str(shards)],
        ["index", str(shards), "--processes", "1", CAPTION],
        ["index", "--refresh", str(shards), CAPTION],
        ["index", f"data.train={shards}"],
    ):
        assert cli.main(["data", *arguments]) == 0
        assert "40 samples" in capsys.readouterr().out


def test_the_module_runs_as_a_program(shards: Path):
    command = [sys.executable, "-m", "contrastive", "data", "index", str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "40 samples in 3 shards" in done.stdout


def test_a_program_without_a_command_says_which_there_are(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert cli.main(["date"]) == 2
    assert (
        "error: date: no such command; there are pretrain, eval, export, import, import-flags, data"
        in capsys.readouterr().err
    )
