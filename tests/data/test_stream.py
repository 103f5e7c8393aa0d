import json
import pickle
from pathlib import Path

import pytest

from contrastive.data.shards import expand, index
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from tests import toys


def reader(folder: Path, caption_key: str = "txt") -> Reader:
    return Reader(index(expand(str(folder)), "png", caption_key), caption_key)


def test_every_sample_is_read_whole_in_any_order(shards: Path):
    found = reader(shards)
    for number in (39, 0, 17, 17, 38):
        assert found.image(number) == toys.encode(toys.image(number))
        assert found.caption(number, 0.9) == toys.caption(number)


def test_a_draw_picks_one_of_several_captions(shards: Path):
    found = reader(shards, "json.captions")
    ends = [found.caption(3, draw).split()[-1] for draw in (0.0, 0.34, 0.99)]
    assert ends == ["here", "there", "nowhere"]


def test_a_reader_travels_to_a_worker_with_no_open_file(shards: Path):
    found = reader(shards)
    found.image(0)
    assert pickle.loads(pickle.dumps(found)).image(1) == toys.encode(toys.image(1))


def test_a_missing_caption_field_stops_at_the_door(shards: Path):
    with pytest.raises(
        DataError, match=r"00000\.tar:s000.*data\.caption_key asks for a JSON member with a field 'nope'"
    ):
        reader(shards, "json.nope").probe()


def test_an_empty_caption_is_named(tmp_path: Path):
    toys.write_tar(tmp_path / "a.tar", [("k.png", b"1"), ("k.txt", b"  \n")])
    with pytest.raises(DataError, match=r"a\.tar:k: its caption is empty"):
        reader(tmp_path).caption(0, 0.0)


def test_a_shard_that_shrinks_while_training_is_named(shards: Path):
    found = reader(shards)
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"was the shard changed while training\?"):
        found.image(5)


def test_text_that_is_not_utf8_is_read_with_marks(tmp_path: Path):
    toys.write_tar(
        tmp_path / "a.tar", [("k.png", b"1"), ("k.json", json.dumps({"c": "é"}).encode()), ("k.txt", b"caf\xe9")]
    )
    assert reader(tmp_path).caption(0, 0.0) == "caf�"
    assert reader(tmp_path, "json.c").caption(0, 0.0) == "é"
