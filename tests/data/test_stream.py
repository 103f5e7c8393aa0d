import json
import pickle
from pathlib import Path

import pytest

from contrastive.data.shards import expand, index
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from tests import toys


def reader(folder: Path, caption_key: str = "txt", label_key: str | None = None) -> Reader:
    return Reader(index(expand(str(folder)), "png", caption_key, label_key), caption_key, label_key)


def labelled(folder: Path, *labels: str, member: str = "json") -> Path:
    content = [(f"{i}.{kind}", b"x") for i in range(len(labels)) for kind in ("png", "txt")]
    toys.write_tar(folder / "a.tar", content + [(f"{i}.{member}", label.encode()) for i, label in enumerate(labels)])
    return folder


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


def test_a_label_is_the_text_of_its_member(tmp_path: Path):
    found = reader(labelled(tmp_path, "7", " 7\n", "07", member="cls"), label_key="cls")
    assert [found.label(number) for number in range(3)] == ["7", "7", "07"]


def test_equal_numbers_and_texts_of_a_json_field_are_one_label(tmp_path: Path):
    written = ['{"c": 3}', '{"c": 3.0}', '{"c": "3"}', '{"c": 0.1}', '{"c": "é"}', '{"c": 1e400}', '{"c": -0.0}']
    found = reader(labelled(tmp_path, *written), label_key="json.c")
    assert [found.label(number) for number in (0, 1, 2, 3, 4, 6)] == ["3", "3", "3", "0.1", "é", "0"]
    with pytest.raises(DataError, match="asks for a number or a text, and this one has 'inf'"):
        found.label(5)


@pytest.mark.parametrize("value", ['""', "null", "true", "[3]", '{"a": 1}', "NaN", '"  "'])
def test_what_is_no_number_and_no_text_is_no_label(tmp_path: Path, value: str):
    found = reader(labelled(tmp_path, f'{{"c": {value}}}'), label_key="json.c")
    with pytest.raises(DataError, match=r"a\.tar:0: data\.label_key asks for a number or a text"):
        found.label(0)


@pytest.mark.parametrize("content", ['{"d": 1}', "[1]", "no json"])
def test_a_missing_label_field_stops_at_the_door(tmp_path: Path, content: str):
    found = reader(labelled(tmp_path, content), label_key="json.c")
    with pytest.raises(DataError, match=r"a\.tar:0: data\.label_key asks for a JSON member with a field 'c'"):
        found.probe()


def test_labels_that_are_not_utf8_stay_apart(tmp_path: Path):
    content = [(f"{i}.{kind}", b"x") for i in range(2) for kind in ("png", "txt")]
    toys.write_tar(tmp_path / "a.tar", [*content, ("0.cls", b"\xe9"), ("1.cls", b"\xe8")])
    found = reader(tmp_path, label_key="cls")
    assert found.label(0) != found.label(1)
