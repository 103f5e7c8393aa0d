import json
import logging
import os
from pathlib import Path

import pytest

from contrastive.tracking.journal import Journal


def row(step: int, kind: str = "train", **values: object) -> dict[str, object]:
    return {"kind": kind, "step": step, **values}


def write(path: Path, *rows: dict[str, object], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows) + tail)
    return path


def opened(path: Path, resume_step: int | None = None) -> Journal:
    journal = Journal(path, resume_step)
    journal.open()
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_resume_drops_what_will_be_written_again_and_keeps_what_its_step_has(path: Path):
    kept = [row(1), row(2), row(2, "eval", dataset="digits"), row(2, "eval", dataset="faces")]
    write(path, *kept, row(3), row(3, "eval"), row(1, "resume"))
    journal = opened(path, resume_step=2)
    journal.write(row(3, loss=1.0), {})
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*kept, row(1, "resume"), row(3, loss=1.0)]


@pytest.mark.parametrize("tail", ['{"kind": "train", "st', "\n\n", "[1]\n", '{"kind": "train"}\n', "\x00\x00\x00"])
def test_a_resume_drops_a_torn_or_damaged_line(path: Path, tail: str):
    write(path, row(1), row(2), tail=tail)
    opened(path, resume_step=2).close()
    assert path.read_text() == "".join(json.dumps(one) + "\n" for one in (row(1), row(2)))


def test_a_line_that_lacks_only_its_end_is_kept(path: Path):
    write(path, row(1), tail=json.dumps(row(2)))
    journal = opened(path, resume_step=2)
    journal.write(row(3), {})
    assert journal.rows() == [row(1), row(2), row(3)]


def test_a_file_with_nothing_to_drop_is_not_written_again(path: Path):
    write(path, row(1), row(2))
    before = path.stat()
    opened(path, resume_step=2).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_resume_a_torn_line_stays_a_line_of_its_own(path: Path):
    write(path, row(1), tail='{"kind": "tr')
    journal = opened(path)
    journal.write(row(2), {})
    assert journal.rows() == [row(1), row(2)]


def test_a_resume_without_a_file_begins_one(path: Path):
    journal = opened(path, resume_step=7)
    assert journal.rows() == []
    journal.write(row(8), {})
    assert journal.rows() == [row(8)]


def test_a_deleted_file_goes_on_in_a_new_one_and_says_so(path: Path, caplog: pytest.LogCaptureFixture):
    journal = opened(path)
    journal.write(row(1), {})
    path.unlink()
    with caplog.at_level(logging.WARNING, "contrastive"):
        journal.write(row(2), {})
        journal.write(row(3), {})
    assert journal.rows() == [row(2), row(3)]
    (line,) = caplog.messages
    assert line == f"{path} was deleted; it goes on in a new file"


def test_a_row_is_on_disk_when_it_has_been_written(path: Path):
    child = os.fork()
    if child == 0:
        opened(path).write(row(1), {})
        os._exit(0)  # closes and flushes nothing, as a kill does
    os.waitpid(child, 0)
    assert Journal(path, None).rows() == [row(1)]


def test_a_full_disk_raises_and_the_half_line_harms_no_other():
    with Path("/dev/full").open("ab", buffering=0) as file:
        journal = Journal(Path("/dev/full"), None)
        journal._file = file
        with pytest.raises(OSError, match="No space left"):
            journal.write(row(1), {})


def test_values_that_json_does_not_know_are_written_as_text(path: Path):
    journal = opened(path)
    journal.write(row(1, where=Path("a/b")), {})
    assert journal.rows() == [row(1, where="a/b")]
