"""A shard written again with new captions."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from contrastive.data.pool import open_pool
from contrastive.data.shards import Shard
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation.captioning import CaptionShard, How, new_name, with_field
from contrastive.recipes.curation.captions import Caption, CaptionIndex
from contrastive.settings import DataConfig
from tests import toys

JSON = b'{\n  "a": 1.50,\n  "uid": 123456789012345678901234567890 }\n'


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]


def shard_of(folder: Path, members: list[tuple[str, bytes]], **options: Any) -> Shard:
    toys.write_tar(folder / "0.tar", members)
    return open_pool(DataConfig(train=str(folder), **options), Storage()).manifests[0].shards[0]


def writer(work: Path, rows: dict[str, list[str]], how: How) -> CaptionShard:
    work.mkdir(exist_ok=True)
    captions = [Caption(f"row {key}", key, text) for key, texts in rows.items() for text in texts]
    return CaptionShard(work, CaptionIndex.build(work / "index", captions), how, Storage())


def test_a_field_is_added_and_all_other_bytes_stay(tmp_path: Path):
    members = [("a.jpg", b"x"), ("a.txt", b"old"), ("a.json", JSON), ("b.jpg", b"y"), ("b.txt", b"b"), ("odd", b"?"),
               ("a.seg.png", b"")]  # fmt: skip
    shard = shard_of(tmp_path / "in", members)
    write = writer(tmp_path / "work", {"a": ["new ü"], "c": ["nobody"]}, How("recaption"))
    found, taken = write(shard)
    new = contents(tmp_path / "work" / "0.tar")
    assert list(new) == [name for name, _ in members]
    assert (
        new.pop("a.json") == b'{\n  "a": 1.50,\n  "uid": 123456789012345678901234567890, "recaption": "new \xc3\xbc"}'
    )
    assert new == {name: content for name, content in members if name != "a.json"}
    assert (found.rows, found.captioned, found.odd) == (2, 1, [])
    assert [write.captions.at(place).key for place in taken.tolist()] == ["a"]


def test_several_captions_are_a_list_and_equal_ones_are_one(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("a.jpg", b"x"), ("a.txt", b"old"), ("a.json", b"{}")])
    writer(tmp_path / "work", {"a": ["p", "q", "p"]}, How("recaption"))(shard)
    assert contents(tmp_path / "work" / "0.tar")["a.json"] == b'{"recaption": ["p", "q"]}'


def test_a_sample_without_json_gets_one_behind_its_members(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("d/a.jpg", b"x"), ("d/a.txt", b"o"), ("d/b.jpg", b"x"), ("d/b.txt", b"o")])
    writer(tmp_path / "work", {"d/a": ["p"]}, How("recaption"))(shard)
    new = contents(tmp_path / "work" / "0.tar")
    assert list(new) == ["d/a.jpg", "d/a.txt", "d/a.json", "d/b.jpg", "d/b.txt"]
    assert json.loads(new["d/a.json"]) == {"recaption": "p"}


def test_a_member_of_its_own_is_what_caption_key_names(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("a.b.jpg", b"x"), ("a.b.txt", b"old"), ("c.jpg", b"x"), ("c.txt", b"old")])
    writer(tmp_path / "work", {"a.b": ["p"]}, How("recaption", "member"))(shard)
    assert list(contents(tmp_path / "work" / "0.tar")) == ["a.b.jpg", "a.b.txt", "a.b.recaption", "c.jpg", "c.txt"]
    pool = open_pool(DataConfig(train=str(tmp_path / "work" / "0.tar"), caption_key="recaption"), Storage())
    assert [pool.find(number).row.key for number in range(len(pool))] == ["a.b"]


@pytest.mark.parametrize(("place", "key"), [("json", "json.new"), ("member", "new")])
def test_what_is_there_is_only_overwritten_when_asked(tmp_path: Path, place: Any, key: str):
    members = [("a.jpg", b"x"), ("a.txt", b"old"), ("a.json", b'{"new": 1, "b": 2}'), ("a.new", b"there")]
    shard = shard_of(tmp_path / "in", members)
    with pytest.raises(DataError, match=rf"0.tar:a: has {key} already; choose another --field, or .* --replace"):
        writer(tmp_path / "work", {"a": ["p"]}, How("new", place))(shard)
    assert not (tmp_path / "work" / "0.tar").exists()
    writer(tmp_path / "work", {"a": ["p"]}, How("new", place, replace=True))(shard)
    new = contents(tmp_path / "work" / "0.tar")
    assert (json.loads(new["a.json"])["new"], new["a.new"]) == (("p", b"there") if place == "json" else (1, b"p"))


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}"])
def test_a_sample_whose_json_is_none_stays_as_it_is(tmp_path: Path, content: bytes):
    shard = shard_of(tmp_path / "in", [("a.jpg", b"x"), ("a.txt", b"old"), ("a.json", content)])
    found, taken = writer(tmp_path / "work", {"a": ["p"]}, How("new"))(shard)
    assert contents(tmp_path / "work" / "0.tar")["a.json"] == content
    assert found.captioned == 0
    assert [(row, key, reason) for row, key, reason, _ in found.odd] == [(0, "a", "json: damaged")]
    assert taken.tolist() == [0]  # it was of somebody


def test_several_captions_do_not_fit_a_member(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("a.jpg", b"x"), ("a.txt", b"old")])
    with pytest.raises(DataError, match=r"--as member: 'a' has 2 captions, a member holds one; use --as json"):
        writer(tmp_path / "work", {"a": ["p", "q"]}, How("new", "member"))(shard)


def test_a_finished_shard_is_not_written_again(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("a.jpg", b"x"), ("a.txt", b"old")])
    write = writer(tmp_path / "work", {"a": ["p"]}, How("new"))
    first = write(shard)
    (tmp_path / "work" / "0.tar").unlink()
    (tmp_path / "in" / "0.tar").unlink()
    again = write(shard)
    assert again[0] == first[0]
    assert again[1].tolist() == first[1].tolist()


def test_the_tar_says_nothing_of_times_and_users(tmp_path: Path):
    shard = shard_of(tmp_path / "in", [("a.jpg", b"x"), ("a.txt", b"old")])
    writer(tmp_path / "work", {"a": ["p"]}, How("new"))(shard)
    with tarfile.open(tmp_path / "work" / "0.tar") as tar:
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar.getmembers()} == {
            (0, 0, 0, "", 0o644)
        }


def test_a_packed_shard_becomes_a_plain_one(tmp_path: Path):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as tar:
        for name in ("a.jpg", "a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "in.tar.gz").write_bytes(plain.getvalue())
    shard = open_pool(DataConfig(train=str(tmp_path / "in.tar.gz")), Storage()).manifests[0].shards[0]
    writer(tmp_path / "work", {"a": ["p"]}, How("new"))(shard)
    assert list(contents(tmp_path / "work" / "in.tar")) == ["a.jpg", "a.txt", "a.json"]


@pytest.mark.parametrize(
    ("location", "name"),
    [("/a/00.tar", "00.tar"), ("s3://b/00.tar.gz", "00.tar"), ("x.tgz", "x.tar"), ("v1.2.tar", "v1.2.tar")],
)
def test_shards_keep_their_names(location: str, name: str):
    assert new_name(location) == name


@pytest.mark.parametrize("content", [b"{}", b" { } ", b'{"a": {"b": "}"}}', b'{"a": "\\u00fc \xc3\xbc"}\n'])
def test_a_field_in_any_object_is_what_json_reads_back(content: bytes):
    assert json.loads(with_field(content, 'n"ü', ["x\n"], False)) == {**json.loads(content), 'n"ü': ["x\n"]}


@pytest.mark.parametrize("name", ["jpg", "json", "a.b", "Big", ""])
def test_a_name_that_no_member_can_have_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"--field"):
        How(name, "member")
