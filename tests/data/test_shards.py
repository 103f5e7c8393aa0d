import tarfile
from pathlib import Path

import pytest

from contrastive.data.shards import expand, index
from contrastive.errors import DataError
from tests import toys


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_directory_glob_braces_and_joined_parts_name_the_same_shards(shards: Path):
    all_of_them = ["00000.tar", "00001.tar", "00002.tar"]
    assert names(expand(str(shards))) == all_of_them
    assert names(expand(f"{shards}/*.tar")) == all_of_them
    assert names(expand(f"{shards}/{{00000..00002}}.tar")) == all_of_them
    assert names(expand(f"{shards}/00000.tar::{shards}/0000[12].tar")) == all_of_them


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{folder}/nowhere", "nowhere does not exist"),
        ("{folder}/{{00000..00009}}.tar", "00003.tar does not exist (7 of 10 shards are missing)"),
        ("{folder}/*.zip", "does not exist"),
        ("{folder}/empty", "holds no .tar file"),
        ("", "names no shards"),
        ("pipe:touch {folder}/x", "would run a shell command"),
        ("{folder}/00000.tar:: PIPE:cat x", "would run a shell command"),
        ("s3://bucket/a.tar", "is a URL"),
    ],
)
def test_a_wrong_path_is_one_line_at_once(shards: Path, spec: str, message: str):
    (shards / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        expand(spec.format(folder=shards))
    assert message in str(caught.value)
    assert not (shards / "x").exists()


def test_the_index_points_at_the_bytes_that_tarfile_finds(shards: Path):
    samples = index(expand(str(shards)), "jpg;png", "txt")
    assert len(samples) == 40
    for row in range(40):
        with tarfile.open(samples.shards[samples.shard[row]]) as tar:
            for suffix, (offset, size) in ((".png", samples.image[row]), (".txt", samples.caption[row])):
                member = tar.getmember(samples.keys[row] + suffix)
                assert (member.offset_data, member.size) == (offset, size)


def test_members_need_not_be_adjacent_and_samples_without_a_member_are_counted(tmp_path: Path):
    content = [("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"A"), ("c.txt", b"C"), ("b.txt", b"B"), ("d.png", b"3")]
    samples = index([toys.write_tar(tmp_path / "a.tar", content)], "png", "txt")
    assert samples.keys == ("a", "b")
    assert samples.unusable == 2


def test_the_first_image_member_named_wins(tmp_path: Path):
    tar = toys.write_tar(tmp_path / "a.tar", [("a.png", b"12"), ("a.jpg", b"3"), ("a.txt", b"A")])
    assert index([tar], "jpg;png", "txt").image[0, 1] == 1
    assert index([tar], "png;jpg", "txt").image[0, 1] == 2


def test_labels_are_indexed_only_when_asked_for(tmp_path: Path):
    content = [("a.cls", b"7"), ("a.png", b"1"), ("a.txt", b"A"), ("b.png", b"1")]  # b is no sample, so it needs none
    tar = toys.write_tar(tmp_path / "a.tar", content)
    assert index([tar], "png", "txt").label is None
    (span,) = index([tar], "png", "txt", "cls").label
    with tarfile.open(tar) as opened:
        member = opened.getmember("a.cls")
        assert (member.offset_data, member.size) == tuple(span)


def test_a_sample_without_its_label_is_named_at_the_door(tmp_path: Path):
    content = [("a.png", b"1"), ("a.txt", b"A"), ("a.cls", b"7"), ("b.png", b"2"), ("b.txt", b"B")]
    tar = toys.write_tar(tmp_path / "a.tar", content)
    with pytest.raises(DataError, match=r"a\.tar:b: data\.label_key asks for a member 'cls', .* has png, txt"):
        index([tar], "png", "txt", "cls")


@pytest.mark.parametrize(
    ("image_key", "caption_key", "message"),
    [
        ("png", "caption", "data.caption_key: no sample has a member caption; the shards hold"),
        ("bmp;gif", "txt", "data.image_key: no sample has a member bmp or gif; the shards hold"),
    ],
)
def test_a_key_that_no_sample_has_names_what_there_is(shards: Path, image_key: str, caption_key: str, message: str):
    with pytest.raises(DataError) as caught:
        index(expand(str(shards)), image_key, caption_key)
    assert message in str(caught.value)
    assert all(name in str(caught.value) for name in ("png", "txt", "json"))
