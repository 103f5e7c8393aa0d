import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes.catalogue import (
    Action,
    counted,
    fetch,
    follow,
    guarded,
    hub_fetch,
    ours,
    program,
    samples_in,
    split_folders,
    unzip,
    work,
)


def steps(done: list[str], statuses: dict[str, int], **findings: bool):
    def action(name: str) -> Action:
        return Action(f"do {name}", lambda: done.append(name) or statuses.get(name, 0), findings.get(name, False))

    return {name: lambda name=name: [action(name), action(f"{name}2")] for name in ("list", "pack", "verify")}


def test_steps_run_in_their_order_whatever_the_order_they_are_asked_in(capsys) -> None:
    done: list[str] = []
    assert follow(steps(done, {}), ["verify", "list"], False) == 0
    assert done == ["list", "list2", "verify", "verify2"]
    assert capsys.readouterr().out.splitlines()[:3] == ["== list", "do list", "do list2"]


def test_a_command_that_fails_ends_the_recipe_with_its_status(capsys) -> None:
    done: list[str] = []
    assert follow(steps(done, {"pack": 3}), [], False) == 3
    assert done == ["list", "list2", "pack"]
    assert "pack: ended with status 3; mend what it says, and run --step pack again" in capsys.readouterr().out


def test_a_finding_is_the_status_of_the_end_and_ends_nothing() -> None:
    done: list[str] = []
    assert follow(steps(done, {"list": 1}, list=True), [], False) == 1
    assert done[-1] == "verify2"
    assert follow(steps([], {"list": 2}, list=True), [], False) == 2


def test_a_dry_run_runs_nothing() -> None:
    done: list[str] = []
    assert follow(steps(done, {"pack": 3}), [], True) == 0
    assert done == []


def test_programs_and_our_commands_are_shown_as_a_shell_would_take_them(tmp_path: Path) -> None:
    assert program(sys.executable, "-c", "raise SystemExit(7)").run() == 7
    assert hub_fetch("a/b", ["x *"], tmp_path).line.startswith("hf download a/b --repo-type dataset --include 'x *'")
    called: list[list[str]] = []
    action = ours(lambda words: called.append(list(words)) or 5, "data", "pack", "a b")
    assert (action.line, action.run(), called) == ("contrastive data pack 'a b'", 5, [["data", "pack", "a b"]])
    with pytest.raises(DataError, match=r"no-such-program: no such program; install it, or run the line yourself"):
        program("no-such-program", "x").run()


def test_a_users_mistake_is_one_line_and_status_2(capsys) -> None:
    def fail() -> str:
        raise DataError("a:\n b")

    assert guarded(lambda: follow({"x": lambda: [work("fail", fail)]}, [], False)) == 2
    assert capsys.readouterr().err == "error: a: b\n"


def test_archives_are_unpacked_without_a_program_of_the_system(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/side.txt", "x")
    assert unzip(tmp_path / "a.zip", tmp_path / "out").run() == 0
    side = tmp_path / "out" / "in" / "side.txt"
    assert side.read_text() == "x"
    side.write_text("y")
    assert unzip(tmp_path / "a.zip", tmp_path / "out").run() == 0
    assert side.read_text() == "y"  # it is there


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_file_is_fetched_once_and_its_name_appears_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "from").write_text("abc")
    (tmp_path / "to.part").write_text("a")
    action = fetch((tmp_path / "from").as_uri(), tmp_path / "to")
    assert action.run() == 0
    assert (tmp_path / "to").read_text() == "abc"
    (tmp_path / "from").unlink()
    assert action.run() == 0
    assert fetch((tmp_path / "from").as_uri(), tmp_path / "other").run() != 0
    assert not (tmp_path / "other").exists()


def test_samples_are_counted_over_splits_and_compared_with_what_is_expected(tmp_path: Path, capsys) -> None:
    with pytest.raises(DataError, match=r"holds no indexed shards; run the step pack first"):
        samples_in(tmp_path)
    for split, sizes in (("train", {"0.tar": 6, "gone.tar": 9}), ("val", {"0.tar": 2})):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.tar").touch()
        (tmp_path / split / "sizes.json").write_text(json.dumps(sizes))
    assert split_folders(tmp_path) == [tmp_path / "train", tmp_path / "val"]
    assert split_folders(tmp_path / "val") == [tmp_path / "val"]
    assert counted(tmp_path, 10, "rows", 0.8).run() == 0
    assert f"{tmp_path}: 8 samples, 80.0% of 10 rows" in capsys.readouterr().out
    assert counted(tmp_path, 10, "rows", 0.9).run() == 1
    assert "fewer than 90%; see which rows failed" in capsys.readouterr().out
    (tmp_path / "val" / "sizes.json").write_text("[]")
    with pytest.raises(DataError, match=r"sizes\.json: cannot be read; run contrastive data index"):
        samples_in(tmp_path)
