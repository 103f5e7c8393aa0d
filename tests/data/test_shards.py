import json
import shutil
import tarfile
from pathlib import Path

import pytest

from contrastive.data.index import Selection
from contrastive.data.shards import Manifest, open_manifest
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from tests import toys


def manifest(folder: Path, image: str = "png", captions: str = "txt", label: str | None = None, **options) -> Manifest:
    selection = Selection(tuple(image.split(";")), tuple(captions.split(";")), label)
    return open_manifest([str(path) for path in sorted(folder.glob("*.tar"))], selection, Storage(), **options)


def test_the_index_points_at_the_bytes_that_tarfile_finds(shards: Path):
    found = manifest(shards, "jpg;png")
    assert len(found) == 40
    for number in range(40):
        row = found.row(number)
        with tarfile.open(found.shards[row.shard].location) as tar:
            for suffix in ("png", "txt", "json"):
                member = tar.getmember(f"{row.key}.{suffix}")
                assert (member.offset_data, member.size) == row.members[suffix]


def test_members_need_not_be_adjacent_and_samples_without_a_member_are_counted(tmp_path: Path):
    content = [("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"A"), ("c.txt", b"C"), ("b.txt", b"B"), ("d.png", b"3")]
    toys.write_tar(tmp_path / "a.tar", content)
    found = manifest(tmp_path)
    assert [found.row(number).key for number in range(len(found))] == ["a", "b"]
    assert found.unusable == {"no image": 1, "no caption": 1}
    assert [row.key for row in found.rows(0)] == ["a", "b", "c", "d"]


def test_labels_are_asked_of_usable_samples_alone(tmp_path: Path):
    content = [("a.cls", b"7"), ("a.png", b"1"), ("a.txt", b"A"), ("b.png", b"1")]  # b is no sample, so it needs none
    toys.write_tar(tmp_path / "a.tar", content)
    assert len(manifest(tmp_path, label="cls")) == 1


def test_a_sample_without_its_label_is_named_at_the_door(tmp_path: Path):
    content = [("a.png", b"1"), ("a.txt", b"A"), ("a.cls", b"7"), ("b.png", b"2"), ("b.txt", b"B")]
    toys.write_tar(tmp_path / "a.tar", content)
    with pytest.raises(DataError, match=r"a\.tar:b: data\.label_key asks for a member 'cls', .* has png, txt"):
        manifest(tmp_path, label="cls")


@pytest.mark.parametrize(
    ("image", "captions", "message"),
    [
        ("png", "caption", "data.caption_key: no sample has a member caption; the shards hold"),
        ("bmp;gif", "txt", "data.image_key: no sample has a member bmp or gif; the shards hold"),
    ],
)
def test_a_key_that_no_sample_has_names_what_there_is(shards: Path, image: str, captions: str, message: str):
    with pytest.raises(DataError) as caught:
        manifest(shards, image, captions)
    assert message in str(caught.value)
    assert all(name in str(caught.value) for name in ("png", "txt", "json"))


def test_sizes_are_written_where_open_clip_looks(shards: Path):
    manifest(shards)
    assert sum(json.loads((shards / "sizes.json").read_text()).values()) == 40


def test_a_moved_dataset_keeps_its_fingerprint(shards: Path, tmp_path: Path):
    before = manifest(shards).fingerprint
    shutil.move(shards, tmp_path / "elsewhere")
    assert manifest(tmp_path / "elsewhere").fingerprint == before


def test_quarantined_rows_are_left_out_from_then_on(shards: Path, tmp_path: Path):
    found = manifest(shards)
    row = found.row(3)
    line = {"location": found.shards[row.shard].location, "shard": "00000.tar", "key": row.key, "row": row.row}
    (tmp_path / "q.jsonl").write_text(json.dumps({**line, "reason": "image: truncated"}) + "\n")
    manifest(shards, quarantine=[tmp_path / "q.jsonl"])
    again = manifest(shards)
    assert len(again) == 39
    assert again.unusable == {"quarantined": 1}
    assert row.key not in [again.row(number).key for number in range(39)]
    assert again.fingerprint != found.fingerprint
