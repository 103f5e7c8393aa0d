"""`contrastive data add-captions`: new captions beside the old ones, and training that draws from both."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.hashing import mix
from contrastive.recipes.curation.captioning import CaptionShard, How
from contrastive.runs.captioning import Source, add_captions
from contrastive.runs.opening import configuration
from contrastive.settings import Config, DataConfig
from tests import toys
from tests.runs.test_rewriting import files, tars

JSON = How("recaption")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return toys.write_shards(tmp_path / "in", 30, 3)


def config(shards: Path) -> Config:
    return configuration([], [], [str(shards)])


def table(path: Path, numbers: range) -> Source:
    rows = [{"key": f"s{number:05d}", "caption": f"new {number}"} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path)


def add(shards: Path, source: Source, out: Path, how: How = JSON, processes: int = 1) -> dict[str, Any]:
    add_captions(config(shards), source, out, how, processes=processes)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_only_the_json_of_captioned_samples_changes(tmp_path: Path, shards: Path):
    report = add(shards, table(tmp_path / "c.jsonl", range(5, 20)), tmp_path / "out")
    old, new = files(shards), files(tmp_path / "out")
    assert list(old) == list(new)
    for number in range(30):
        name = f"s{number:05d}.json"
        expected = json.loads(old.pop(name))
        if 5 <= number < 20:
            expected["recaption"] = f"new {number}"
        assert json.loads(new.pop(name)) == expected
    assert old == new
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == ["00000.tar", "00001.tar", "00002.tar"]
    figures = report["figures"]
    assert (figures["samples with new captions"], figures["samples without"]) == (15, 15)
    assert report["examples"]["new caption"][0]["note"] == "before: a picture of thing number 5"
    assert report["examples"]["new caption"][0]["caption"] == "new 5"


@pytest.mark.parametrize(("place", "key"), [("json", "json.recaption"), ("member", "recaption")])
def test_training_draws_from_old_and_new_captions(tmp_path: Path, shards: Path, place: Any, key: str):
    add(shards, table(tmp_path / "c.jsonl", range(15)), tmp_path / "out", How("recaption", place))
    data = DataConfig(train=str(tmp_path / "out"), caption_key={"txt": 0.3, key: 0.7})
    reader = Reader(open_pool(data, Storage()), Storage())
    draws = [int(mix("test", n)) / 2**64 for n in range(300)]
    new = sum(reader.caption(reader.pool.find(3), draw) == "new 3" for draw in draws)
    assert abs(new - 210) < 4 * (300 * 0.21) ** 0.5
    assert {reader.caption(reader.pool.find(20), draw) for draw in draws} == {toys.caption(20)}


def test_two_runs_and_two_processes_give_the_same_bytes(tmp_path: Path, shards: Path):
    source = table(tmp_path / "c.jsonl", range(30))
    add(shards, source, tmp_path / "a")
    add(shards, source, tmp_path / "b", processes=2)
    assert tars(tmp_path / "a") == tars(tmp_path / "b")
    one, other = ((tmp_path / name / "pack.json").read_text() for name in "ab")
    assert one == other


def test_captions_of_nobody_are_written_down_in_the_order_of_the_file(tmp_path: Path, shards: Path):
    report = add(shards, table(tmp_path / "c.jsonl", range(28, 33)), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(one["key"], one["reason"]) for one in lines] == [(f"s{n:05d}", "key: unknown") for n in (30, 31, 32)]
    assert lines[0]["where"].endswith("c.jsonl: line 3")
    assert report["figures"]["rejected, key: unknown"] == 3


def test_an_ended_program_goes_on_where_it_was(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    source, written = table(tmp_path / "c.jsonl", range(30)), []
    whole = CaptionShard._write

    def write(self: CaptionShard, location: str, name: str) -> Any:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(name)
        return whole(self, location, name)

    monkeypatch.setattr(CaptionShard, "_write", write)
    with pytest.raises(DataError, match=r"cannot be written: No space left on device .*; make room, and run"):
        add(shards, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # so that nobody trains on half of it
    monkeypatch.setattr(CaptionShard, "_write", lambda *given: written.append(given[2]) or whole(*given))
    add(shards, source, tmp_path / "out")
    assert written == ["00000.tar", "00001.tar", "00002.tar"]
    monkeypatch.undo()
    add(shards, source, tmp_path / "again")
    assert tars(tmp_path / "out") == tars(tmp_path / "again")


def test_other_captions_do_not_go_on_with_what_was_begun(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(CaptionShard, "_write", lambda *given: (_ for _ in ()).throw(DataError("killed")))
        with pytest.raises(DataError, match="killed"):
            add(shards, table(tmp_path / "c.jsonl", range(30)), tmp_path / "out")
    with pytest.raises(DataError, match=r"--out .*out: was begun in another way \(captions.sha256: "):
        add(shards, table(tmp_path / "c.jsonl", range(29)), tmp_path / "out")
    add_captions(config(shards), Source(tmp_path / "c.jsonl"), tmp_path / "out", JSON, restart=True, processes=1)
    assert b"recaption" not in files(tmp_path / "out")["s00029.json"]


def test_rows_that_were_left_out_stay_so(tmp_path: Path, shards: Path):
    line = {"location": str(shards / "00001.tar"), "key": "s00012", "row": 2, "reason": "image: empty"}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n")
    assert len(open_pool(DataConfig(train=str(shards)), Storage(), quarantine=[tmp_path / "q.jsonl"])) == 29
    add(shards, table(tmp_path / "c.jsonl", range(30)), tmp_path / "out")
    pool = open_pool(DataConfig(train=str(tmp_path / "out")), Storage())
    assert len(pool) == 29
    assert "s00012" not in {pool.find(number).row.key for number in range(29)}
    assert b"new 12" in files(tmp_path / "out")["s00012.json"]


def test_images_alone_become_samples(tmp_path: Path):
    toys.write_tar(tmp_path / "in" / "0.tar", [(f"{n}.png", toys.encode(toys.image(n))) for n in range(3)])
    (tmp_path / "c.csv").write_text("key,caption\n0,zero\n2,two\n")
    add(tmp_path / "in", Source(tmp_path / "c.csv"), tmp_path / "out", How("txt", "member"))
    pool = open_pool(DataConfig(train=str(tmp_path / "out")), Storage())
    reader = Reader(pool, Storage())
    assert [reader.caption(pool.find(number), 0.0) for number in range(2)] == ["zero", "two"]
    assert pool.unusable == 1


def test_the_provenance_names_the_captions_and_the_shards(tmp_path: Path, shards: Path):
    source = table(tmp_path / "c.jsonl", range(30))
    add(shards, source, tmp_path / "a")
    add(tmp_path / "a", source, tmp_path / "b", How("second"))
    said = json.loads((tmp_path / "b" / "pack.json").read_text())["identity"]
    assert (said["captions"]["file"], said["field"], said["as"]) == ("c.jsonl", "second", "json")
    (first,) = said["inputs"][0]["made by"]
    assert first["identity"]["field"] == "recaption"


def test_a_key_of_two_samples_is_refused(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        toys.write_tar(tmp_path / "in" / name, toys.members(1))
    with pytest.raises(DataError, match=r"b.tar: its key 's00001' also stands in .*a.tar; make keys unique first"):
        add(tmp_path / "in", table(tmp_path / "c.jsonl", range(2)), tmp_path / "out")


def test_shards_of_one_name_are_refused(tmp_path: Path):
    for name in ("a", "b"):
        toys.write_tar(tmp_path / name / "0.tar", toys.members(1))
    both = configuration([], [], [str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(DataError, match=r"b/0.tar: has the name of .*a/0.tar, .*contrastive data merge"):
        add_captions(both, table(tmp_path / "c.jsonl", range(2)), tmp_path / "out", How("new"), processes=1)


def test_captions_of_other_samples_are_refused(tmp_path: Path, shards: Path):
    with pytest.raises(DataError, match=r"c.jsonl: none of its 3 captions is of a sample; .*--key-column"):
        add(shards, table(tmp_path / "c.jsonl", range(40, 43)), tmp_path / "out")


def test_a_table_that_is_missing_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"--captions none.csv: no such file"):
        add(tmp_path / "nowhere", Source(Path("none.csv")), tmp_path / "out")
