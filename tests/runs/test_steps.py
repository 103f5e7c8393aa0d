import json
import os
from pathlib import Path

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.engine import Local
from contrastive.recipes.step import Step
from contrastive.runs import steps


def test_an_engine_is_found_by_its_name_and_takes_all_cores():
    found = steps.open_engine("local", None)
    assert isinstance(found, Local)
    assert found.processes == os.cpu_count()
    assert steps.open_engine("local", 3).processes == 3
    with pytest.raises(ConfigError, match=r"--engine: 'rey' is not one of local, ray, .*; did you mean ray\?"):
        steps.open_engine("rey", None)


def test_a_step_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps.new_folder(tmp_path)
    steps.conclude(
        Step("Filter", samples=2000, kept=1500, dropped={"too small": 500}, notes=["mind the gap"]), tmp_path
    )
    said = capsys.readouterr().out
    for part in ("Filter", "2,000", "1,500", "75.00%", "too small", "25.00%", "mind the gap", "report.html"):
        assert part in said
    assert json.loads((tmp_path / "report.json").read_text())["dropped"] == {"too small": 500}
    assert "too small" in (tmp_path / "report.html").read_text()


def test_no_step_takes_the_folder_of_another(tmp_path: Path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match=r"--out .*: holds the report of an earlier step; name a new folder"):
        steps.new_folder(tmp_path)
    steps.new_folder(tmp_path, is_refreshed=True)


def test_secrets_of_the_command_line_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/contrastive", "data", "https://user:secret@host/{0..9}.tar"])
    line = steps.command_line()
    assert line[:2] == ["contrastive", "data"]
    assert "secret" not in line[2]
