import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from contrastive.recipes.catalogue import program
from contrastive.recipes.downloads import Download
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import in_batches, read_tsv
from contrastive.recipes.web_lists import WebList, run_web_list
from tests.data_recipes.stand_ins import url, web

KINDS = {"url": pa.string(), "caption": pa.string(), "id": pa.int64(), "score": pa.float64()}


def read(paths: Sequence[Path]) -> Iterator[Item]:
    rows = read_tsv(paths[0], ("url", "caption"))
    return in_batches(({**row, "score": row["id"] / 10} for row in rows), KINDS)


@pytest.fixture
def birds(tmp_path: Path):
    """A recipe of six birds, three of which are on the web, and what our commands were asked."""
    web(tmp_path / "web", 3)
    list_file = tmp_path / "birds.tsv"
    list_file.write_text("".join(f"{url(number)}\tbird {number}\n" for number in range(6)))
    called: list[list[str]] = []

    def commands(words: Sequence[str]) -> int:
        called.append(list(words))
        if words[1] != "verify":
            shards = Path(words[words.index("--out") + 1] if "--out" in words else words[2])
            shards.mkdir(parents=True, exist_ok=True)
            (shards / "00000.tar").touch()
            (shards / "sizes.json").write_text('{"00000.tar": 3}')
        return 0

    recipe = WebList(
        name="birds",
        samples=6,
        files=("birds*.tsv",),
        read=read,
        where_from="get it at https://birds",
        get=lambda folder: [program("cp", str(list_file), f"{folder}/"), program("true")],
        hub=("me/birds", "*.tar"),
        download=Download(columns=("id", "score", "absent")),
    )

    def run(*words: str) -> int:
        given = ["--out", str(tmp_path / "out"), "--img2dataset", str(tmp_path / "web" / "img2dataset"), *words]
        return run_web_list(recipe, None, given, commands)

    return run, called, tmp_path


def test_a_recipe_gets_the_list_packs_verifies_and_counts(birds, capsys) -> None:
    run, called, path = birds
    (path / "out" / "source").mkdir(parents=True)
    assert run() == 0
    out = str(path / "out")
    assert called == [
        ["data", "pack", f"{out}/download", "--from", "shards", "--out", f"{out}/shards"],
        ["data", "verify", f"{out}/shards", "--sample", "20000"],
    ]
    said = capsys.readouterr().out
    assert "6 rows listed, of 6 that were published" in said
    assert "3 samples, 50.0% of 6 listed rows" in said


def test_only_columns_that_the_list_has_are_kept_in_the_json(birds) -> None:
    run, _, path = birds
    assert run("--source", str(path / "birds.tsv"), "--step", "list", "--step", "download") == 0
    asked = json.loads((path / "web" / "asked.json").read_text())
    assert asked["save_additional_columns"] == '["id","score"]'


def test_rows_that_no_condition_names_are_never_asked_for(birds, capsys) -> None:
    run, _, path = birds
    assert (
        run("--source", str(path / "birds.tsv"), "--where", "score<=0.3", "--step", "list", "--step", "download") == 0
    )
    said = capsys.readouterr().out
    assert "3 rows listed, 3 left out by --where" in said
    assert "3 of 3 images downloaded (100.0%)" in said


def test_another_list_is_not_mixed_into_a_download(birds, capsys) -> None:
    run, _, path = birds
    words = ("--source", str(path / "birds.tsv"), "--step", "list", "--step", "download")
    assert run(*words, "--limit", "3") == 0
    assert run(*words) == 2
    assert "was begun with another list or size" in capsys.readouterr().err


def test_a_poor_shard_is_downloaded_again_when_asked(birds, capsys) -> None:
    run, _, path = birds
    words = ("--source", str(path / "birds.tsv"), "--step", "list", "--step", "download")
    assert run(*words) == 0
    (path / "web" / "3.jpg").write_bytes((path / "web" / "2.jpg").read_bytes())
    assert run(*words) == 0
    assert "4 of 6" not in capsys.readouterr().out
    assert run(*words, "--retry-below", "0.9") == 0
    said = capsys.readouterr().out
    assert "1 shards are downloaded again" in said
    assert "4 of 6 images downloaded (66.7%)" in said


def test_tars_that_are_used_in_place_are_moved_and_indexed_and_the_download_can_go_on(birds) -> None:
    run, called, path = birds
    assert run("--source", str(path / "birds.tsv"), "--in-place") == 0
    assert called[0] == ["data", "index", str(path / "out" / "shards")]
    assert not list((path / "out" / "download").glob("*.tar"))
    assert run("--source", str(path / "birds.tsv"), "--in-place") == 0


def test_ready_shards_of_the_hub_need_no_list(birds, capsys) -> None:
    run, _, path = birds
    assert run("--from", "hub", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "hf download me/birds --repo-type dataset --include '*.tar' --local-dir" in said
    assert "img2dataset" not in said
    assert f"count the samples of {path / 'out' / 'shards'}: at least 50% of 6 published rows" in said
