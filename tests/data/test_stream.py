import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from tests import toys
from tests.data.toys import reader, settings


def of(folder: Path, caption_key: Any = "txt", label_key: str | None = None, **options: Any) -> Reader:
    return reader(settings(folder, caption_key=caption_key, label_key=label_key, **options))


def image(found: Reader, number: int) -> bytes:
    return found.image(found.pool.find(number))


def caption(found: Reader, number: int, draw: float = 0.0) -> str:
    return found.caption(found.pool.find(number), draw)


def label(found: Reader, number: int) -> str:
    return found.label(found.pool.find(number))


def labelled(folder: Path, *labels: str, member: str = "json") -> Path:
    content = [(f"{i}.{kind}", b"x") for i in range(len(labels)) for kind in ("png", "txt")]
    toys.write_tar(folder / "a.tar", content + [(f"{i}.{member}", label.encode()) for i, label in enumerate(labels)])
    return folder


def test_every_sample_is_read_whole_in_any_order(shards: Path):
    found = of(shards)
    for number in (39, 0, 17, 17, 38):
        assert image(found, number) == toys.encode(toys.image(number))
        assert caption(found, number, 0.9) == toys.caption(number)


def test_a_draw_picks_one_of_several_captions(shards: Path):
    found = of(shards, "json.captions")
    ends = [caption(found, 3, draw).split()[-1] for draw in (0.0, 0.34, 0.99)]
    assert ends == ["here", "there", "nowhere"]


def test_captions_of_several_keys_are_drawn_by_their_weights(shards: Path):
    found = of(shards, {"txt": 1, "json.captions": 3})
    drawn = [caption(found, 3, draw / 8) for draw in range(8)]
    assert drawn[:2] == [toys.caption(3)] * 2
    assert [text.split()[-1] for text in drawn[2:]] == ["here", "here", "there", "there", "nowhere", "nowhere"]


def test_where_the_drawn_caption_is_empty_another_key_is_asked(tmp_path: Path):
    toys.write_tar(tmp_path / "a.tar", [("k.png", b"1"), ("k.txt", b"  "), ("k.json", b'{"c": "a cat"}')])
    assert caption(of(tmp_path, {"txt": 1, "json.c": 1}), 0, 0.1) == "a cat"


def test_a_reader_travels_to_a_worker_with_no_open_file(shards: Path):
    found = of(shards)
    image(found, 0)
    assert image(pickle.loads(pickle.dumps(found)), 1) == toys.encode(toys.image(1))


def test_a_missing_caption_field_stops_at_the_door(shards: Path):
    message = r"00000\.tar:s000.*data\.caption_key asks for json\.nope, and its json member is no JSON with a field"
    with pytest.raises(DataError, match=message):
        of(shards, "json.nope").probe()


def test_every_source_is_probed(shards: Path, tmp_path: Path):
    toys.write_tar(tmp_path / "other" / "a.tar", [("k.png", b"1"), ("k.json", b"{}")])
    found = reader(settings(sources={"good": str(shards), "bad": str(tmp_path / "other")}))
    with pytest.raises(DataError, match=r"a\.tar:k: data\.caption_key asks for json\.captions"):
        found.probe()


def test_an_empty_caption_is_named(tmp_path: Path):
    toys.write_tar(tmp_path / "a.tar", [("k.png", b"1"), ("k.txt", b"  \n")])
    with pytest.raises(BadSampleError, match=r"a\.tar:k: its caption is empty") as caught:
        caption(of(tmp_path), 0)
    assert caught.value.reason == "caption: empty"


def test_a_shard_that_shrinks_while_training_ends_the_run_or_spoils_a_sample(shards: Path):
    strict, lenient = of(shards), of(shards, damaged_shards="substitute")
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"00000\.tar: .*sample s00005 at byte .*damaged_shards=substitute") as caught:
        image(strict, 5)
    assert not isinstance(caught.value, BadSampleError)
    with pytest.raises(BadSampleError, match=r"00000\.tar:s00005") as spoilt:
        image(lenient, 5)
    assert spoilt.value.reason.startswith("shard: ")


def test_a_bad_sample_keeps_its_reason_on_its_way_between_processes():
    error = pickle.loads(pickle.dumps(BadSampleError("caption: empty", "a.tar:k: is empty")))
    assert (error.reason, str(error)) == ("caption: empty", "a.tar:k: is empty")


def test_text_that_is_not_utf8_is_read_with_marks(tmp_path: Path):
    toys.write_tar(
        tmp_path / "a.tar", [("k.png", b"1"), ("k.json", json.dumps({"c": "é"}).encode()), ("k.txt", b"caf\xe9")]
    )
    assert caption(of(tmp_path), 0) == "caf\ufffd"
    assert caption(of(tmp_path, "json.c"), 0) == "é"


def test_a_label_is_the_text_of_its_member(tmp_path: Path):
    found = of(labelled(tmp_path, "7", " 7\n", "07", member="cls"), label_key="cls")
    assert [label(found, number) for number in range(3)] == ["7", "7", "07"]


def test_equal_numbers_and_texts_of_a_json_field_are_one_label(tmp_path: Path):
    written = ['{"c": 3}', '{"c": 3.0}', '{"c": "3"}', '{"c": 0.1}', '{"c": "é"}', '{"c": 1e400}', '{"c": -0.0}']
    found = of(labelled(tmp_path, *written), label_key="json.c")
    assert [label(found, number) for number in (0, 1, 2, 3, 4, 6)] == ["3", "3", "3", "0.1", "é", "0"]
    with pytest.raises(DataError, match="asks for a number or a text, and this one has 'inf'"):
        label(found, 5)


@pytest.mark.parametrize("value", ['""', "null", "true", "[3]", '{"a": 1}', "NaN", '"  "'])
def test_what_is_no_number_and_no_text_is_no_label(tmp_path: Path, value: str):
    found = of(labelled(tmp_path, f'{{"c": {value}}}'), label_key="json.c")
    with pytest.raises(DataError, match=r"a\.tar:0: data\.label_key asks for a number or a text"):
        label(found, 0)


@pytest.mark.parametrize("content", ['{"d": 1}', "[1]", "no json"])
def test_a_missing_label_field_stops_at_the_door(tmp_path: Path, content: str):
    found = of(labelled(tmp_path, content), label_key="json.c")
    with pytest.raises(DataError, match=r"a\.tar:0: data\.label_key asks for json\.c, and its json member is no JSON"):
        found.probe()


def test_labels_that_are_not_utf8_stay_apart(tmp_path: Path):
    content = [(f"{i}.{kind}", b"x") for i in range(2) for kind in ("png", "txt")]
    toys.write_tar(tmp_path / "a.tar", [*content, ("0.cls", b"\xe9"), ("1.cls", b"\xe8")])
    found = of(tmp_path, label_key="cls")
    assert label(found, 0) != label(found, 1)
