"""The folder of an export: there whole or not at all, and what it says of itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError, ModelError, RunError
from contrastive.export.folder import check_output, check_requirements, seal, writing


def test_what_exists_is_never_written_over(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link"):
        with pytest.raises(ConfigError, match=rf"{name}: exists already; nothing is overwritten: give another folder"):
            check_output(tmp_path / name)
    check_output(tmp_path / "new" / "deep")


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out: .*file is a file, not a folder"):
        check_output(tmp_path / "file" / "out")


@pytest.mark.parametrize("error", [ModelError("no"), KeyboardInterrupt(), ValueError()])
def test_nothing_is_left_of_a_block_that_fails(error: BaseException, tmp_path: Path):
    def write() -> None:
        with writing(tmp_path / "deep" / "out") as scratch:
            (scratch / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(RunError, match="out: cannot be written: No space left on device"), writing(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_kill_left_behind_is_no_obstacle(tmp_path: Path):
    (tmp_path / ".out.writing").mkdir()
    (tmp_path / ".out.writing" / "old").write_text("old")
    with writing(tmp_path / "out") as scratch:
        (scratch / "new").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_record_lists_every_file_but_itself(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.bin").write_bytes(b"abc")
    for _ in range(2):  # sealed again, it says the same
        seal(tmp_path, {"format": "toy"})
        record = json.loads((tmp_path / "export.json").read_text())
        listed = {"deep/a.bin": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}
        assert record == {"schema": "contrastive-export/1", "format": "toy", "files": listed}


def test_missing_libraries_come_with_the_line_of_pip():
    exporter: Any = type("E", (), {"requires": {"json": "json", "no_such_module": "no-such", "nor_this": "nor-this"}})()
    with pytest.raises(ConfigError, match=r"--to toy: needs no-such, nor-this; pip install no-such nor-this$"):
        check_requirements("toy", exporter)
