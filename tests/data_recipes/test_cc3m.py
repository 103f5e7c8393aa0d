import json
import tarfile
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.data_recipes.stand_ins import asked, recipe, url, web

cc3m = recipe("cc3m")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A list of eight rows: five good ones, of which one link is dead; a torn one, one in Latin-1, one without text."""
    rows = [b"a red shoe\t%s", b"torn", b"\xe9t\xe9\t%s", b'a "quoted" word\t%s', b" \t%s", b"gone\t%s", b"a hat \t%s",
            b"the sea\t%s"]  # fmt: skip
    numbers = iter((0, 1, 2, 3, "dead", 4, 5))
    lines = [row % url(next(numbers)).encode() if b"%s" in row else row for row in rows]
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    return path


def words(tmp_path: Path, source: Path, *more: str) -> list[str]:
    program = str(tmp_path / "web" / "img2dataset")
    return ["--source", str(source), "--out", str(tmp_path / "out"), "--img2dataset", program, *more]


def test_a_list_becomes_packed_and_verified_shards_and_the_loss_is_told(source: Path, tmp_path: Path, capsys) -> None:
    web(tmp_path / "web", 6)
    assert cc3m.main(words(tmp_path, source)) == 0
    said = capsys.readouterr().out
    assert "5 rows listed, 1 rejected (broken row), 1 rejected (not UTF-8), 1 rejected (caption: empty)" in said
    assert "4 of 5 images downloaded (80.0%), 1 shards; not: 1 HTTP Error 404: Not Found" in said
    assert "4 samples, 80.0% of 5 listed rows" in said
    found = {}
    for path in (tmp_path / "out" / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in [name for name in members if name.endswith(".json")]:
            fields = json.loads(members[name])
            stem = name.removesuffix(".json")
            assert members[f"{stem}.jpg"] == (tmp_path / "web" / Path(fields["url"]).name).read_bytes()
            found[fields["id"]] = members[f"{stem}.txt"].decode()
    assert found == {1: "a red shoe", 4: 'a "quoted" word', 7: "a hat", 8: "the sea"}


def test_the_list_has_the_lines_as_ids_and_says_why_rows_are_not_in_it(source: Path, tmp_path: Path) -> None:
    assert cc3m.main(["--source", str(source), "--out", str(tmp_path / "out"), "--step", "list"]) == 0
    folder = tmp_path / "out" / "list"
    rows = parquet.read_table(folder / "00000.parquet").to_pylist()
    assert [(row["id"], row["url"]) for row in rows] == [
        (1, url(0)), (4, url(2)), (6, url("dead")), (7, url(4)), (8, url(5))
    ]  # fmt: skip
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert {(row["key"], row["reason"]) for row in rejected} == {
        ("2", "broken row"), ("3", "not UTF-8"), ("5", "caption: empty")
    }  # fmt: skip
    assert any("has 1 cells, not 2 (caption, url)" in row["message"] for row in rejected)


def test_img2dataset_is_asked_to_keep_bytes_and_ratio_and_to_obey_robots(source: Path, tmp_path: Path) -> None:
    web(tmp_path / "web", 6)
    assert cc3m.main(words(tmp_path, source, "--step", "list", "--step", "download", "--size", "256")) == 0
    options = asked(tmp_path / "web")
    wanted = {
        "image_size": "256", "resize_mode": "keep_ratio", "resize_only_if_bigger": "True", "skip_reencode": "True",
        "encode_quality": "95", "output_format": "webdataset", "retries": "2", "compute_hash": "sha256",
        "save_additional_columns": '["id"]', "incremental_mode": "incremental",
    }  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "disallowed_header_directives" not in options
    assert cc3m.main(words(tmp_path, source, "--step", "download", "--size", "0")) == 2


def test_a_download_that_is_not_finished_is_not_packed(source: Path, tmp_path: Path, capsys) -> None:
    web(tmp_path / "web", 6)
    assert cc3m.main(words(tmp_path, source, "--step", "list", "--step", "download")) == 0
    (tmp_path / "out" / "download" / "00000_stats.json").unlink()
    assert cc3m.main(words(tmp_path, source, "--step", "pack")) == 2
    assert "5 of 5 rows are still to be tried; run --step download again" in capsys.readouterr().err


def test_too_few_images_end_with_status_1(source: Path, tmp_path: Path, capsys) -> None:
    web(tmp_path / "web", 1)
    assert cc3m.main(words(tmp_path, source, "--in-place")) == 1
    assert "1 samples, 20.0% of 5 listed rows" in capsys.readouterr().out


def test_a_dry_run_shows_every_command_and_runs_none(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert cc3m.main(["--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"-m venv {tmp_path}/.venv-img2dataset" in said
    assert "pip install img2dataset==1.47.0" in said
    assert f"img2dataset --url_list={out}/list --input_format=parquet" in said
    assert f"contrastive data pack {out}/download --from shards --out {out}/shards" in said
    assert f"contrastive data verify {out}/shards --sample 20000" in said
    assert cc3m.main(["--out", str(out), "--dry-run", "--from", "hub"]) == 0
    said = capsys.readouterr().out
    assert f"hf download pixparse/cc3m-wds --repo-type dataset --include 'cc3m-train-*.tar' --local-dir {out}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "holds no *raining*.tsv*; download the training split at https://"),
        (["--where", "score"], "--where 'score': is no COLUMN>=VALUE; signs are >= <= =="),
        (["--where", "score>=0.3"], "--where score: no such column; known: url, caption, id"),
    ],
)
def test_what_cannot_be_listed_is_one_line(more: list[str], message: str, source: Path, tmp_path: Path, capsys) -> None:
    given = ["--source", str(source if more else tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    assert cc3m.main([*given, "--step", "list", *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out" / "list").exists()
