"""What all ways to a shard's bytes share."""

from pathlib import Path

import pytest

from contrastive.data.access import ReadError, StorageOptions, cache_home, is_packed, is_remote
from contrastive.errors import DataError


@pytest.mark.parametrize(
    ("location", "remote", "packed"),
    [
        ("/data/a.tar", False, False),
        ("a.tar.gz", False, True),
        ("s3://bucket/a.tgz", True, True),
        ("https://host/a.tar?name=b.gz", True, False),
        ("https://host/a.tar.gz?token=1", True, True),
        ("pipe:zcat a.tar.gz", True, False),
    ],
)
def test_a_location_tells_how_it_is_read(location: str, remote: bool, packed: bool):
    assert (is_remote(location), is_packed(location)) == (remote, packed)


def test_what_can_be_made_again_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "own"))
    assert cache_home() == tmp_path / "own"
    assert StorageOptions().cache_folder == tmp_path / "own" / "shards"
    assert StorageOptions(cache=tmp_path / "disk").cache_folder == tmp_path / "disk"
    monkeypatch.delenv("CONTRASTIVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "contrastive"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "contrastive"


def test_an_error_says_its_message_and_counts_by_its_reason():
    error = ReadError("missing", "a.tar: is not there")
    assert isinstance(error, DataError)
    assert (str(error), error.reason) == ("a.tar: is not there", "missing")
