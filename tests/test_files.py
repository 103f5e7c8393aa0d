import hashlib
from pathlib import Path

import pytest

from contrastive.files import replacing, sha256, sync, write_durably, write_whole


@pytest.mark.parametrize("write", [write_whole, write_durably])
def test_a_file_is_replaced_and_readable_by_others(tmp_path: Path, write):
    path = tmp_path / "a.json"
    path.write_text("before")
    write(path, "nach ümlaut")
    assert path.read_text(encoding="utf-8") == "nach ümlaut"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_digest_is_that_of_the_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"x" * 5_000_000).hexdigest()
    sync(tmp_path / "a")
    sync(tmp_path)
