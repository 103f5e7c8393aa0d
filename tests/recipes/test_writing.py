import json
import tarfile

import pytest

from contrastive.errors import DataError
from contrastive.recipes.writing import (
    finished_folder,
    is_finished,
    write_classification,
    write_json,
    write_retrieval,
    write_shards,
)


def samples(count):
    return [{"__key__": f"k{i:03d}", "png": bytes([i]), "txt": f"caption {i}"} for i in range(count)]


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_shards_hold_every_sample_once_in_order_and_differ_by_one_at_most(tmp_path):
    sizes = write_shards(tmp_path, samples(11), shards=3)
    assert sizes == json.loads((tmp_path / "sizes.json").read_text())
    assert list(sizes) == ["00000.tar", "00001.tar", "00002.tar"]
    assert sum(sizes.values()) == 11
    assert max(sizes.values()) - min(sizes.values()) <= 1
    names = [name for shard in sizes for name in members(tmp_path / shard)]
    assert names == [f"k{i:03d}.{end}" for i in range(11) for end in ("png", "txt")]
    assert members(tmp_path / "00000.tar")["k001.txt"] == b"caption 1"


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_shards(tmp_path / name, samples(4), shards=2)
    assert (tmp_path / "one" / "00001.tar").read_bytes() == (tmp_path / "two" / "00001.tar").read_bytes()


def test_classification_has_the_layout_of_clip_benchmark(tmp_path):
    labelled = [{"__key__": f"s{i:07d}", "png": b"x", "cls": str(i % 2)} for i in range(3)]
    write_classification(tmp_path, labelled, ["cat", "dog"], ["{c}", "a {c}"])
    assert (tmp_path / "classnames.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "zeroshot_classification_templates.txt").read_text() == "{c}\na {c}\n"
    assert (tmp_path / "test" / "nshards.txt").read_text() == "1\n"
    assert members(tmp_path / "test" / "0.tar")["s0000001.cls"] == b"1"
    assert not (tmp_path / "dataset_type.txt").exists()


def test_retrieval_has_the_layout_of_clip_benchmark(tmp_path):
    write_retrieval(tmp_path, samples(5), shards=2)
    assert (tmp_path / "dataset_type.txt").read_text() == "retrieval\n"
    assert (tmp_path / "test" / "nshards.txt").read_text() == "2\n"
    assert len(members(tmp_path / "test" / "0.tar")) + len(members(tmp_path / "test" / "1.tar")) == 10


@pytest.mark.parametrize(
    ("wrong", "shards", "message"),
    [
        (samples(2), 3, "cannot fill 3 shards"),
        (samples(1) * 2, 1, "share a key"),
        ([{"__key__": "a.b", "txt": "x"}], 1, "holds a dot"),
    ],
)
def test_what_webdataset_would_misread_is_refused(tmp_path, wrong, shards, message):
    with pytest.raises(DataError, match=message):
        write_shards(tmp_path, wrong, shards)


def test_a_folder_appears_only_when_it_is_finished(tmp_path):
    def fail_half_way():
        with finished_folder(tmp_path / "set") as draft:
            write_json(draft / "manifest.json", {})
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_replaces_an_older_one_whole(tmp_path):
    for version in (1, 2):
        with finished_folder(tmp_path / "set") as draft:
            write_json(draft / f"only-{version}", version)
            write_json(draft / "manifest.json", {"recipe": {"version": version}})
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["manifest.json", "only-2"]
    assert is_finished(tmp_path / "set", {"version": 2})
    assert not is_finished(tmp_path / "set", {"version": 1})


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"dear to me")
    with pytest.raises(DataError, match="not replaced"), finished_folder(tmp_path / "photos"):
        pass
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_a_damaged_manifest_counts_as_unfinished(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    assert not is_finished(tmp_path, {})
