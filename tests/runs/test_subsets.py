"""`contrastive data subset`: as a list, as rows that training skips, as new shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError
from contrastive.recipes.verdicts import provenance_of
from contrastive.runs.opening import configuration
from contrastive.runs.subsets import Choice, Use, subset
from contrastive.settings import Config, DataConfig
from tests import toys


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return toys.write_shards(tmp_path / "shards", 30, 3)


def config(shards: Path) -> Config:
    return configuration([], [], [str(shards)])


def opened(shards: Path) -> Pool:
    return open_pool(DataConfig(train=str(shards)), Storage())


def keys(pool: Pool) -> list[str]:
    return [pool.find(number).row.key for number in range(len(pool))]


def listed(path: Path, numbers: range) -> Path:
    path.write_text("".join(f"s{number:05d}\n" for number in numbers))
    return path


def test_a_subset_is_a_list_with_its_provenance(tmp_path: Path, shards: Path):
    first = tmp_path / "first"
    subset(config(shards), Choice([listed(tmp_path / "a.txt", range(0, 30, 2))]), Use(first), processes=1)
    subset(config(shards), Choice([first / "verdicts.parquet"], sample=5, seed=7), Use(tmp_path / "b"), processes=1)
    table = parquet.read_table(tmp_path / "b" / "verdicts.parquet").to_pylist()
    assert [row["key"] for row in table] == [f"s{number:05d}" for number in range(30)]
    kept = [row["key"] for row in table if row["kept"]]
    assert len(kept) == 5
    assert all(int(key[1:]) % 2 == 0 for key in kept)
    assert {row["reason"] for row in table if not row["kept"]} == {"not in a.txt", "not drawn"}
    said = provenance_of(tmp_path / "b" / "verdicts.parquet")
    assert (said["samples"], said["fingerprint"]) == (30, opened(shards).fingerprint)
    assert said["made of"][0]["says"]["made of"][0]["file"] == "a.txt"
    assert said["made of"][1] == {"role": "sample", "of": 15, "drawn": 5, "seed": 7}
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert (report["samples"], report["kept"], report["dropped"]) == (30, 5, {"not in a.txt": 15, "not drawn": 10})
    assert len(report["examples"]["kept"]) == 5
    assert report["examples"]["not drawn"][0]["image"]


def test_the_same_subset_has_the_same_bytes_whatever_the_processes(tmp_path: Path, shards: Path):
    choice = Choice([listed(tmp_path / "a.txt", range(20))], sample=0.5)
    for name, processes in (("x", 1), ("y", 2)):
        subset(config(shards), choice, Use(tmp_path / name), processes=processes)
    assert (tmp_path / "x" / "verdicts.parquet").read_bytes() == (tmp_path / "y" / "verdicts.parquet").read_bytes()


def test_a_skip_lets_training_read_the_subset_alone_until_it_is_forgotten(tmp_path: Path, shards: Path):
    before = opened(shards).fingerprint
    chosen = listed(tmp_path / "a.txt", range(3, 30, 3))
    subset(config(shards), Choice([chosen]), Use(tmp_path / "out", skip=True), processes=1)
    pool = opened(shards)
    assert keys(pool) == [f"s{number:05d}" for number in range(3, 30, 3)]
    assert json.loads((shards / "sizes.json").read_text()) == {"00000.tar": 3, "00001.tar": 3, "00002.tar": 3}
    other = toys.write_shards(tmp_path / "other", 30, 3)
    by_hand = open_pool(DataConfig(train=str(other)), Storage(), quarantine=[tmp_path / "out" / "skip.jsonl"])
    assert pool.fingerprint == by_hand.fingerprint != before
    batches = {Reader(pool, Storage()).caption(pool.find(number), 0.0) for number in range(len(pool))}
    assert batches == {toys.caption(number) for number in range(3, 30, 3)}
    lines = [json.loads(line) for line in (tmp_path / "out" / "skip.jsonl").read_text().splitlines()]
    assert [(one["key"], one["row"]) for one in lines[:3]] == [("s00000", 0), ("s00001", 1), ("s00002", 2)]
    assert {one["reason"] for one in lines} == {"subset: not in a.txt"}
    assert open_pool(DataConfig(train=str(shards)), Storage(), forget_quarantine=True).fingerprint == before


def test_a_reason_that_begins_with_shard_is_skipped_all_the_same(tmp_path: Path, shards: Path):
    rows = [{"key": f"s{n:05d}", "kept": n > 4, "reason": "shard: short" if n <= 4 else ""} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subset(config(shards), Choice([tmp_path / "a.jsonl"]), Use(tmp_path / "out", skip=True), processes=1)
    assert len(opened(shards)) == 25


def test_a_rewritten_subset_is_shards_of_their_own(tmp_path: Path, shards: Path):
    chosen = listed(tmp_path / "a.txt", range(0, 30, 3))
    use = Use(tmp_path / "new", rewrite=True, shard_size=4)
    subset(config(shards), Choice([chosen]), use, processes=1)
    pool = opened(tmp_path / "new")
    assert sorted(keys(pool)) == [f"s{number:05d}" for number in range(0, 30, 3)]
    assert sorted(pool.manifests[0].counts.tolist()) == [3, 3, 4]
    old = opened(shards)
    reader, source = Reader(pool, Storage()), Reader(old, Storage())
    wanted = {key: number for number, key in enumerate(keys(old))}
    for number in range(len(pool)):
        now, was = reader.members(number), source.members(wanted[pool.find(number).row.key])
        assert {name: now[name] for name in ("png", "txt", "json")} == {
            name: was[name] for name in ("png", "txt", "json")
        }
    said = json.loads((tmp_path / "new" / "pack.json").read_text())
    assert said["identity"]["step"] == "subset"
    assert said["identity"]["inputs"][0]["fingerprint"] == old.manifests[0].fingerprint
    assert (tmp_path / "new" / "verdicts.parquet").exists()


def uid(number: int) -> str:
    return f"{number * 7919:032x}"[::-1]


@pytest.fixture
def with_uids(tmp_path: Path) -> Path:
    members = []
    for number in range(20):
        image, text, _ = toys.members(number)
        fields = {} if number == 19 else {"uid": uid(number)}
        members += [image, text, (f"s{number:05d}.json", json.dumps(fields).encode())]
    toys.write_tar(tmp_path / "pool" / "0.tar", members)
    return tmp_path / "pool"


def test_uids_of_datacomp_choose_and_come_back(tmp_path: Path, with_uids: Path):
    wanted = [uid(number) for number in (3, 17, 4, 11)]
    pairs = np.array([(int(one[:16], 16), int(one[16:], 16)) for one in [*wanted, "f" * 32]], "u8,u8")
    pairs.sort()
    np.save(tmp_path / "in.npy", pairs)
    use = Use(tmp_path / "out", uids_out=tmp_path / "out.npy")
    subset(config(with_uids), Choice(uids=[tmp_path / "in.npy"]), use, processes=1)
    table = parquet.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    assert [row["key"] for row in table if row["kept"]] == ["s00003", "s00004", "s00011", "s00017"]
    assert np.load(tmp_path / "out.npy").tolist() == pairs[:-1].tolist()


def test_samples_without_a_uid_are_counted(tmp_path: Path, with_uids: Path):
    use = Use(tmp_path / "out", uids_out=tmp_path / "out.npy")
    with pytest.raises(DataError, match=r"--uids-out .*: 1 of 20 samples have no uid \(.*s00019\)"):
        subset(config(with_uids), Choice(sample=1.0), use, processes=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("choice", "error", "said"),
    [
        ({}, ConfigError, "nothing says which samples; give --list"),
        ({"lists": ["none.txt"]}, DataError, "none.txt: no such file"),
        (
            {"lists": ["a.txt"], "excluded": ["a.txt"]},
            DataError,
            r"keeps none of 30 samples \(.* not in a.txt, .* in a.txt",
        ),
    ],
)
def test_what_chooses_nothing_is_refused(tmp_path: Path, shards: Path, choice: Any, error: type, said: str):
    listed(tmp_path / "a.txt", range(3))
    paths = {name: [tmp_path / one for one in names] for name, names in choice.items()}
    with pytest.raises(error, match=said):
        subset(config(shards), Choice(**paths), Use(tmp_path / "out", skip=True), processes=1)
    assert not (tmp_path / "out").exists()
    assert len(opened(shards)) == 30


def test_a_report_is_not_overwritten(tmp_path: Path, shards: Path):
    subset(config(shards), Choice(sample=3), Use(tmp_path / "out"), processes=1)
    with pytest.raises(DataError, match="holds the report of an earlier step"):
        subset(config(shards), Choice(sample=4), Use(tmp_path / "out"), processes=1)
