import gzip
import logging
from pathlib import Path

import fsspec
import pytest

from contrastive.data.places import expand
from contrastive.errors import DataError


def names(places: list[str]) -> list[str]:
    return [Path(place).name for place in places]


def test_directory_glob_braces_lists_and_joined_parts_name_the_same_shards(shards: Path):
    all_of_them = ["00000.tar", "00001.tar", "00002.tar"]
    assert names(expand(str(shards))) == all_of_them
    assert names(expand(f"file://{shards}")) == all_of_them
    assert names(expand(f"{shards}/*.tar")) == all_of_them
    assert names(expand(f"{shards}/{{00000..00002}}.tar")) == all_of_them
    assert names(expand(f"{shards}/00000.tar::{shards}/0000[12].tar")) == all_of_them
    assert names(expand([f"{shards}/00000.tar", f"{shards}/0000[12].tar"])) == all_of_them


def test_a_directory_holds_packed_tars_too(shards: Path):
    (shards / "00003.tar.gz").write_bytes(gzip.compress(b"x"))
    assert names(expand(str(shards)))[-1] == "00003.tar.gz"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{folder}/nowhere", "nowhere does not exist"),
        ("{folder}/{{00000..00009}}.tar", "00003.tar does not exist (7 of 10 shards are missing)"),
        ("{folder}/*.zip", "does not exist"),
        ("{folder}/empty", "holds no .tar file"),
        ("", "names no shards"),
        ("pipe:touch {folder}/x", "would run a shell command; if you trust it, allow it with data.allow_pipes=true"),
        ("{folder}/00000.tar:: PIPE:cat x", "would run a shell command"),
        ("nope://bucket/a.tar", "nope:// cannot be read here"),
        ("{folder}/00000.tar::{folder}/0000*.tar", "00000.tar twice; to see its samples more often, give a source"),
        ("memory://places-none/*.tar", "names no shard"),
    ],
)
def test_a_wrong_path_is_one_line_at_once(shards: Path, spec: str, message: str):
    (shards / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        expand(spec.format(folder=shards), "data.sources.x.shards")
    assert str(caught.value).startswith("data.sources.x.shards: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (shards / "x").exists()


def test_gaps_in_the_numbers_may_be_passed_over_with_a_warning(shards: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "contrastive"):
        found = expand(f"{shards}/{{00000..00004}}.tar", skip_missing=True)
    assert names(found) == ["00000.tar", "00001.tar", "00002.tar"]
    assert "00003.tar does not exist (2 of 5 shards are missing)" in caplog.text
    with pytest.raises(DataError, match=r"9\.tar does not exist"):
        expand(f"{shards}/9.tar", skip_missing=True)


def test_urls_are_taken_as_they_are_and_their_globs_listed():
    assert expand("https://host/{0..1}.tar?token=a*b") == [
        "https://host/0.tar?token=a*b",
        "https://host/1.tar?token=a*b",
    ]
    system = fsspec.filesystem("memory")
    for name in ("b", "a"):
        system.pipe(f"/places/{name}.tar", b"x")
    assert expand("memory://places/*.tar") == ["memory:///places/a.tar", "memory:///places/b.tar"]


def test_pipes_may_be_allowed_and_have_braces():
    assert expand("pipe:cat {0..1}.tar", allow_pipes=True) == ["pipe:cat 0.tar", "pipe:cat 1.tar"]
