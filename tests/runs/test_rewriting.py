"""`contrastive data reshard` and `merge`: shards of shards."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError
from contrastive.runs.opening import configuration
from contrastive.runs.rewriting import Rewriting, merge, reshard, with_sources
from contrastive.settings import Config, DataConfig
from tests import toys

PNG = toys.encode(toys.image(0))


def config(*shards: Path) -> Config:
    return configuration([], [], [str(one) for one in shards])


def files(folder: Path) -> dict[str, bytes]:
    """Return every file in the tars of a folder, by name, read by tarfile."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for one in tar.getmembers():
                assert one.name not in found, f"{one.name} stands twice"
                found[one.name] = tar.extractfile(one).read()  # type: ignore[union-attr]
    return found


def tars(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


def opened(folder: Path) -> Pool:
    return open_pool(DataConfig(train=str(folder)), Storage())


def keys(pool: Pool) -> list[str]:
    return [pool.find(number).row.key for number in range(len(pool))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards of 2, 30 and 8 samples, in the order of their numbers."""
    for name, numbers in (("0", range(2)), ("1", range(2, 32)), ("2", range(32, 40))):
        toys.write_tar(tmp_path / "in" / f"{name}.tar", [member for n in numbers for member in toys.members(n)])
    return tmp_path / "in"


def test_members_stay_byte_for_byte_and_shards_are_equal(tmp_path: Path, shards: Path):
    reshard(config(shards), Rewriting(tmp_path / "out", shard_size=12), processes=1)
    assert files(tmp_path / "out") == files(shards)
    assert opened(tmp_path / "out").manifests[0].counts.tolist() == [10, 10, 10, 10]
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {f"0000{n}.tar": 10 for n in range(4)}
    read = webdataset.WebDataset(sorted(map(str, (tmp_path / "out").glob("*.tar"))), shardshuffle=False)
    assert [one["__key__"] for one in read] == keys(opened(tmp_path / "out"))


def test_sorted_samples_are_mixed_as_a_whole_or_keep_their_order(tmp_path: Path, shards: Path):
    reshard(config(shards), Rewriting(tmp_path / "mixed", shard_size=10), processes=1)
    reshard(config(shards), Rewriting(tmp_path / "other", shard_size=10, seed=1), processes=1)
    reshard(config(shards), Rewriting(tmp_path / "same", shard_size=10, seed=None), processes=1)
    order = [int(key[1:]) for key in keys(opened(tmp_path / "mixed"))]
    assert keys(opened(tmp_path / "same")) == keys(opened(shards))
    assert sorted(order) == list(range(40))
    assert order != [int(key[1:]) for key in keys(opened(tmp_path / "other"))]
    means = [np.mean(order[start : start + 10]) for start in range(0, 40, 10)]
    assert max(abs(mean - 19.5) for mean in means) < 4 * np.sqrt(40**2 / 12 / 10)  # of fair draws


def test_two_runs_and_two_processes_give_the_same_bytes(tmp_path: Path, shards: Path):
    for name, processes in (("a", 1), ("b", 2)):
        reshard(config(shards), Rewriting(tmp_path / name, shard_size=7), processes=processes)
    assert tars(tmp_path / "a") == tars(tmp_path / "b")


def test_splits_are_folders(tmp_path: Path, shards: Path):
    reshard(config(shards), Rewriting(tmp_path / "out", shard_size=10, splits={"val": 0.3}), processes=1)
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.tar")} == {"train", "val"}
    assert files(tmp_path / "out") == files(shards)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"samples of a shard of train", "samples of a shard of val"} <= set(report["figures"])


def test_keys_that_stand_in_several_shards_are_told_apart_and_written_down(tmp_path: Path):
    for shard in range(2):
        members = [(f"k{n}.txt", f"{shard}{n}".encode()) for n in range(3)]
        toys.write_tar(tmp_path / "in" / f"{shard}.tar", [*members, *((f"k{n}.png", PNG) for n in range(3))])
    reshard(config(tmp_path / "in"), Rewriting(tmp_path / "out"), processes=1)
    found = files(tmp_path / "out")
    assert {name: content for name, content in found.items() if name.endswith("txt")} == {
        f"{shard}-k{n}.txt": f"{shard}{n}".encode() for shard in range(2) for n in range(3)
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / "renamed.jsonl").read_text().splitlines()]
    assert [(one["key"], one["was"]) for one in lines][:2] == [("0-k0", "k0"), ("0-k1", "k1")]


def test_quarantined_and_unusable_rows_are_left_out(tmp_path: Path, shards: Path):
    toys.write_tar(shards / "3.tar", [*toys.members(50), ("lonely.txt", b"no image")])
    (tmp_path / "q.jsonl").write_text(json.dumps({"location": str(shards / "1.tar"), "key": "s00002", "row": 0}) + "\n")
    open_pool(DataConfig(train=str(shards)), Storage(), quarantine=[tmp_path / "q.jsonl"])
    reshard(config(shards), Rewriting(tmp_path / "out"), processes=1)
    assert len(opened(tmp_path / "out")) == 40
    assert not {"lonely", "s00002"} & set(keys(opened(tmp_path / "out")))


def test_a_chain_of_steps_says_where_all_came_from(tmp_path: Path, shards: Path):
    reshard(config(shards), Rewriting(tmp_path / "a", shard_size=10, splits={"val": 0.2}), processes=1)
    reshard(config(tmp_path / "a" / "train"), Rewriting(tmp_path / "b"), processes=1)
    said = json.loads((tmp_path / "b" / "pack.json").read_text())["identity"]
    (first,) = said["inputs"][0]["made by"]
    assert first["identity"]["packing"]["splits"] == {"val": 0.2}
    assert first["identity"]["inputs"][0]["fingerprint"] == opened(shards).manifests[0].fingerprint
    assert len(first["sha256"]) == 64


def test_sources_become_one_and_keys_of_both_are_told_apart(tmp_path: Path, shards: Path):
    toys.write_tar(tmp_path / "b" / "0.tar", [*toys.members(39), *toys.members(77)])
    both = with_sources(config(shards), {"big": str(shards), "small": str(tmp_path / "b")})
    merge(both, Rewriting(tmp_path / "out", shard_size=21), processes=1)
    found = files(tmp_path / "out")
    expected = files(shards) | {}
    for name, content in files(tmp_path / "b").items():
        expected[f"small-{name}" if name in expected else name] = content
    for name in [name for name in expected if name.startswith("s00039")]:
        expected[f"big-{name}"] = expected.pop(name)
    assert found == expected
    assert opened(tmp_path / "out").manifests[0].counts.tolist() == [21, 21]
    said = json.loads((tmp_path / "out" / "pack.json").read_text())["identity"]
    assert [(one["source"], one["samples"]) for one in said["inputs"]] == [("big", 40), ("small", 2)]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["figures"]["from big"], report["figures"]["keys that were changed"]) == (40, 2)


def test_sources_with_captions_in_different_members_say_how_to_read_them(tmp_path: Path):
    toys.write_tar(tmp_path / "a" / "0.tar", [("a.png", PNG), ("a.txt", b"a")])
    toys.write_tar(tmp_path / "b" / "0.tar", [("b.png", PNG), ("b.json", b'{"cap": "b"}')])
    (tmp_path / "mixture.yaml").write_text(
        f"data: {{sources: {{a: {tmp_path}/a, b: {{shards: {tmp_path}/b, caption_key: json.cap}}}}}}"
    )
    both = configuration([str(tmp_path / "mixture.yaml")], [], [])
    merge(both, Rewriting(tmp_path / "out"), processes=1)
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert any("data.caption_key={txt: 1, json.cap: 1}" in note for note in notes)


def test_what_is_no_image_is_kept_under_another_name_and_told(tmp_path: Path, shards: Path):
    toys.write_tar(shards / "3.tar", [("bad.jpg", b"not an image"), ("bad.txt", b"x")])
    reshard(config(shards), Rewriting(tmp_path / "out"), processes=1)
    assert files(tmp_path / "out")["bad.image"] == b"not an image"
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert any("1 images are of no known kind: they are called KEY.image" in note for note in notes)


def test_one_source_is_no_merge(tmp_path: Path, shards: Path):
    with pytest.raises(ConfigError, match="merge: there is one source"):
        merge(config(shards), Rewriting(tmp_path / "out"), processes=1)
