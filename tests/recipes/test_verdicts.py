from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.recipes import verdicts
from contrastive.recipes.verdicts import Verdict, aligned, column, provenance_of, writing_verdicts
from tests import toys
from tests.data.toys import reader, settings
from tests.recipes.keeping import kept


def pool_of(folder: Path) -> Pool:
    return reader(settings(folder, caption_key="txt")).pool


def written(path: Path, pool: Pool) -> Path:
    """Keep every third sample, with its number as a score."""
    with writing_verdicts(path, pool, {"by": "a test"}, ["score"]) as out:
        for number in range(len(pool)):
            scores = {} if number == 4 else {"score": number / 2}
            out.add(Verdict(number, "" if number % 3 == 0 else f"rest {number % 3}", scores))
        assert out.counts == {"": 14, "rest 1": 13, "rest 2": 13}
    return path


def by_another(path: Path, **columns: list[object]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_what_is_written_is_read_again(shards: Path, tmp_path: Path):
    pool = pool_of(shards)
    path = written(tmp_path / "lists/v.parquet", pool)
    assert provenance_of(path) == {"by": "a test", "fingerprint": pool.fingerprint, "samples": 40}
    table = parquet.read_table(path)
    assert table.column("key").to_pylist() == [f"s{number:05d}" for number in range(40)]
    assert table.column("shard").to_pylist()[39] == str(shards / "00002.tar")
    assert table.column("row").to_pylist()[:14] == [*range(14)]
    assert table.column("reason").to_pylist()[:4] == ["", "rest 1", "rest 2", ""]
    scores = column(path, "score")
    assert np.isnan(scores[4])
    assert scores[39] == 19.5
    says, known = kept(path, pool)
    assert np.array_equal(says, np.arange(40) % 3 == 0)
    assert known.all()


def test_the_same_verdicts_are_the_same_bytes_in_whatever_pieces(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = written(tmp_path / "a.parquet", pool_of(shards)).read_bytes()
    assert written(tmp_path / "b.parquet", pool_of(shards)).read_bytes() == first
    monkeypatch.setattr(verdicts, "BATCH", 7)
    small = written(tmp_path / "c.parquet", pool_of(shards))
    assert str(parquet.read_table(small).to_pylist()) == str(parquet.read_table(tmp_path / "a.parquet").to_pylist())


def test_nothing_is_left_of_a_step_that_failed(shards: Path, tmp_path: Path):
    def fail() -> None:
        with writing_verdicts(tmp_path / "v.parquet", pool_of(shards), {}) as out:
            out.add(Verdict(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not [file for file in tmp_path.iterdir() if "parquet" in file.name]


def test_verdicts_on_more_shards_are_found_by_shard_row_and_key(shards: Path, tmp_path: Path):
    path = written(tmp_path / "v.parquet", pool_of(shards))
    (shards / "00001.tar").unlink()
    part = pool_of(shards)
    assert aligned(path, part).tolist() == [*range(14), *range(27, 40)]
    says, _ = kept(path, part)
    assert says.tolist() == [number % 3 == 0 for number in (*range(14), *range(27, 40))]


def test_samples_of_which_a_list_does_not_speak_are_told_apart(shards: Path, tmp_path: Path):
    part = pool_of(toys.write_shards(tmp_path / "part", 20, shards=2))
    path = tmp_path / "v.parquet"
    with writing_verdicts(path, part, {}) as out:
        for number in range(20):
            out.add(Verdict(number))
    says, known = kept(path, pool_of(shards))
    assert known.tolist() == says.tolist() == [number < 10 for number in range(40)]  # 10 to a shard, and 14


def test_a_list_of_another_tool_needs_keys_only(shards: Path, tmp_path: Path):
    path = by_another(tmp_path / "v.parquet", key=["s00007", "zz", "s00003"], kept=[True, True, False])
    says, known = kept(path, pool_of(shards))
    assert np.flatnonzero(says).tolist() == [7]
    assert np.flatnonzero(known).tolist() == [3, 7]
    assert provenance_of(path) == {}


def test_keys_that_stand_twice_are_refused(shards: Path, tmp_path: Path):
    path = by_another(tmp_path / "v.parquet", key=["s00007", "s00007"], kept=[True, False])
    with pytest.raises(DataError, match="1 rows repeat another's key; it must be unique"):
        kept(path, pool_of(shards))
    toys.write_tar(shards / "9.tar", toys.members(7))
    path = by_another(tmp_path / "w.parquet", key=["s00007"], kept=[True])
    with pytest.raises(DataError, match="speaks of 's00007', which stands twice in the shards; add shard and row"):
        kept(path, pool_of(shards))


def test_other_files_are_refused(shards: Path, tmp_path: Path):
    path = tmp_path / "v.parquet"
    path.write_text("key\n")
    with pytest.raises(DataError, match=r"v\.parquet: cannot be read as Parquet"):
        provenance_of(path)
    with pytest.raises(DataError, match="has no column 'kept'; it has key"):
        kept(by_another(path, key=["a"]), pool_of(shards))
