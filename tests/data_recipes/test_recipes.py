"""What holds for every file of data_recipes/."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data_recipes.stand_ins import ROOT, recipe

FILES = sorted((ROOT / "data_recipes").glob("*.py"))
WEB = ("cc3m", "cc12m", "sbu", "redcaps", "coyo", "relaion", "datacomp")
HEADINGS = ("Source", "Licence", "Size", "Expected counts", "Written")
NEEDED = {
    "coco": [],
    "eval_sets": ["cifar10"],
    "flickr30k": ["--source", "somewhere"],
    "imagenet_captions": ["--source", "a.json", "--images", "train"],
    "local": ["--source", "photos.csv"],
    **{name: [] for name in WEB},
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_recipe_tells_its_commands_source_licence_size_counts_and_what_it_writes(name: str) -> None:
    said = recipe(name).__doc__
    assert f"    python data_recipes/{name}.py" in said
    assert re.findall(r"\*\*(.+?)\.\*\*", said) == list(HEADINGS)


@pytest.mark.parametrize("name", NEEDED)
def test_a_dry_run_shows_lines_of_a_shell_and_touches_nothing(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe(name).main([*NEEDED[name], "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("#", "=="))]
    assert lines
    assert all(shlex.split(line) for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NEEDED)
def test_the_table_of_the_readme_has_every_recipe(name: str) -> None:
    table = (ROOT / "data_recipes" / "README.md").read_text(encoding="utf-8")
    assert f"[{name}.py]({name}.py)" in table


@pytest.mark.parametrize("name", WEB)
def test_what_lies_nowhere_is_said_with_where_to_get_it(name: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "source").mkdir()
    words = ["--source", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--step", "list"]
    assert recipe(name).main(words) == 2
    said = capsys.readouterr().err
    assert re.search(r"holds no .*(download|agree).* https://", said)
