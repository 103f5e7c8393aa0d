"""Shards that are damaged, deleted or few, on two ranks: counted exactly, named, and no rank takes another step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import toys
from tests.faults.runs import LAST, Run
from tests.faults.test_failure_table import JPEG, PNG, TEXT, pair

New = Callable[..., Run]
WHOLE = 32
TOLERANT = ("data.damaged_shards=substitute", "data.max_bad_share=1.0", "data.retries=0")


def whole(count: int = WHOLE, key: str = "s") -> list[tuple[str, bytes]]:
    return [member for n in range(count) for member in pair(toys.encode(toys.image(n)), key=f"{key}{n:03d}")]


def write_zoo(folder: Path, *broken: tuple[str, bytes]) -> Path:
    """Write shards of which many things are wrong: 46 good samples can be found, and the broken ones."""
    toys.write_tar(folder / "whole.tar", whole())
    cut = toys.write_tar(folder / "cut.tar", whole(12, "c"))
    content = cut.read_bytes()
    cut.write_bytes(content[: content.index(b"c010.png\0") + 700])  # ten are left
    (folder / "page.tar").write_bytes(b"<html><body>404 Not Found</body></html>" * 60)
    toys.write_tar(folder / "empty.tar", [])
    lonely = [("y0.png", PNG), *pair(PNG, key="y1"), *pair(PNG, key="y1"), *pair(PNG, key="y2"), *pair(PNG, key="y3")]
    toys.write_tar(folder / "odd.tar", [*broken, *lonely, ("y4.txt", TEXT)])
    return folder


BROKEN = {
    "image: truncated": pair(JPEG[: len(JPEG) // 2], extension="jpg", key="x"),
    "image: not an image": pair(b"<html></html>", extension="jpg", key="x"),
}


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    "reason", [pytest.param(name, marks=pytest.mark.slow if n else []) for n, name in enumerate(BROKEN)]
)
def test_damaged_shards_and_samples_are_counted_and_the_job_completes(new_run: New, tmp_path: Path, reason: str):
    shards = write_zoo(tmp_path / "zoo" / "shards", *BROKEN[reason])
    run = new_run(2, *TOLERANT, "data.global_batch_size=2", "train.total_samples=188", shards=shards)
    run.finish()
    assert run.facts()["samples"] == 47  # 32 whole, 10 of the cut shard, 4 odd, 1 broken; two are halves
    epochs = 4
    assert run.records()[-1]["samples_seen"] == epochs * 47
    (line,) = set((run.directory / "quarantine.jsonl").read_text().splitlines())  # a rank writes it once
    row = json.loads(line)
    assert (row["shard"], row["key"], row["reason"]) == ("odd.tar", "x", reason)
    assert json.loads((run.directory / "finished.json").read_text())["replaced"] == epochs
    assert f"{epochs} of {epochs * 47} samples replaced ({epochs} {reason}); most in odd.tar {epochs}" in run.log()
    assert run.records()[-1]["data/replaced"] == epochs


@pytest.mark.fault(27)
def test_a_damaged_shard_is_refused_by_name_unless_told_otherwise(new_run: New, tmp_path: Path):
    run = new_run(2, "data.retries=0", shards=write_zoo(tmp_path / "zoo" / "shards"))
    assert run.start().wait_for_one() == 2, run.log()
    assert "data.damaged_shards=substitute" in run.log()
    assert any(name in run.log() for name in ("cut.tar", "page.tar", "empty.tar"))


@pytest.mark.fault(27)
def test_more_than_the_allowed_share_of_bad_samples_stops_the_run_and_names_the_shard(new_run: New, tmp_path: Path):
    folder = tmp_path / "bad" / "shards"
    toys.write_tar(folder / "good.tar", whole())
    toys.write_tar(folder / "bad.tar", [m for n in range(8) for m in pair(PNG[: len(PNG) // 2], key=f"b{n}")])
    run = new_run(2, shards=folder)
    statuses = run.start().wait()
    assert 2 in statuses, run.log()
    assert 0 not in statuses
    assert "cannot be used, more than 1.00%" in run.log()
    assert "bad.tar" in run.log()


@pytest.mark.fault(28)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_deleted_in_the_middle_is_stood_in_for_and_ranks_agree(new_run: New, tmp_path: Path, workers: int):
    folder = toys.write_shards(tmp_path / "own" / "shards", 40, shards=4)
    for name in ("00001.tar", "00002.tar"):  # what is open is read on; what is not is gone
        assert (folder / name).is_file()
    run = new_run(2, *TOLERANT, f"data.workers={workers}", shards=folder)
    gone = ";".join(f"step:0:12:remove={folder / name}" for name in ("00001.tar", "00002.tar"))
    run.finish(fault=gone)
    assert [row["step"] for row in run.records()] == list(range(1, LAST + 1))
    assert {len(ids) for ids in run.ids().values()} == {8}


@pytest.mark.fault(28)
def test_a_shard_deleted_before_a_resume_is_named(new_run: New, tmp_path: Path):
    folder = toys.write_shards(tmp_path / "own" / "shards", 40, shards=4)
    run = new_run(shards=folder)
    assert set(run.start(fault="after_rename:0:15:kill_all").wait()) == {137}
    (folder / "00001.tar").rename(tmp_path / "elsewhere")
    assert run.start().wait_for_one() == 2, run.log()
    assert "the shards hold other samples" in run.log()
    (tmp_path / "elsewhere").rename(folder / "00001.tar")
    run.finish()
    assert "goes on at step 15 of" in run.log()


@pytest.mark.fault(29)
def test_one_shard_for_two_ranks_with_two_workers_each(new_run: New, tmp_path: Path):
    folder = toys.write_shards(tmp_path / "one" / "shards", 41, shards=1)
    run = new_run(2, "data.workers=2", shards=folder)
    run.finish()
    drawn = [number for _, ids in sorted(run.ids().items()) for number in ids]
    assert len(drawn) == 320
    for epoch in range(320 // 41):
        assert sorted(drawn[41 * epoch : 41 * (epoch + 1)]) == list(range(41))


@pytest.mark.fault(29)
def test_a_batch_that_does_not_divide_and_too_few_samples_are_refused(new_run: New, tmp_path: Path):
    folder = toys.write_shards(tmp_path / "few" / "shards", 5, shards=1)
    for batch, rule in ((3, "3 does not divide over 2 processes; take 2 or 4"), (8, "8 is more than the 5 samples")):
        run = new_run(2, f"data.global_batch_size={batch}", shards=folder)
        assert run.start().wait_for_one() == 2, run.log()
        assert f"data.global_batch_size: {rule}" in run.log()
