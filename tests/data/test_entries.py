"""manifest.json."""

import json
from pathlib import Path

import pytest

from contrastive.data.entries import MANIFEST, Entry, read_entries, write_entries
from contrastive.data.storage import Stat
from contrastive.data.tar import Damage

FULL = Entry(
    bytes=10240, version="12", rows=7, patterns={("jpg", "txt"): 5, ("!jpg", "txt"): 1}, digest="ab", table=300,
    notes={"keys twice": 1}, damage=(Damage(512, "is cut"),), skip=(3,),
)  # fmt: skip
PLAIN = Entry(bytes=1, version="", rows=0, patterns={(): 2}, digest="")


def test_entries_are_the_same_after_a_round_trip(tmp_path: Path):
    write_entries(tmp_path, {"b.tar": FULL, "a.tar": PLAIN})
    assert read_entries(tmp_path) == {"a.tar": PLAIN, "b.tar": FULL}
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert list(content["shards"]) == ["a.tar", "b.tar"]
    assert set(content["shards"]["a.tar"]) == {"bytes", "version", "rows", "patterns", "digest", "table"}
    assert not [path for path in tmp_path.iterdir() if path.name != MANIFEST]


def test_what_is_no_manifest_of_ours_is_told_from_none(tmp_path: Path):
    assert read_entries(tmp_path) == {}
    for content in ("", "{", "null" * 3):
        (tmp_path / MANIFEST).write_text(content)
        assert read_entries(tmp_path) == {}
    for theirs in ("[]", '{"recipe": 1}', '{"version": 1, "shards": []}', '{"version": 1, "shards": {"a.tar": 3}}'):
        (tmp_path / MANIFEST).write_text(theirs)
        assert read_entries(tmp_path) is None, theirs


@pytest.mark.parametrize("broken", [{"rows": "x"}, {"patterns": [1]}, {"more": 1}, {"damage": [[1]]}])
def test_a_broken_line_is_as_if_it_were_not_there(tmp_path: Path, broken: dict[str, object]):
    write_entries(tmp_path, {"a.tar": FULL, "b.tar": PLAIN})
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["shards"]["a.tar"].update(broken)
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    found = read_entries(tmp_path)
    assert found is not None
    assert found["b.tar"] == PLAIN
    assert ("a.tar" in found) == (broken == {"rows": "x"})


def test_another_version_is_read_again(tmp_path: Path):
    write_entries(tmp_path, {"a.tar": FULL})
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace('"version": 1,\n', '"version": 2,\n'))
    assert read_entries(tmp_path) == {}


def test_an_entry_is_of_the_shard_with_its_size_and_time():
    assert FULL.is_of(Stat(10240, "12"))
    assert not FULL.is_of(Stat(10240, "13"))
    assert not FULL.is_of(Stat(10241, "12"))
    assert FULL.is_of(Stat(-1, ""))
