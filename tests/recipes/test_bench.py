from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.modalities import decode
from contrastive.recipes import bench as module
from contrastive.recipes.bench import ADVICE, STAGES, WAIT, Bench, bench
from tests import toys
from tests.data.test_rows import spoilt
from tests.data.toys import rows, settings


def test_each_stage_is_timed_and_a_loader_too(tmp_path: Path):
    found = bench(rows(settings(toys.write_shards(tmp_path, 40), global_batch_size=8)), 0.2, 1)
    assert found.samples > 8
    assert set(found.seconds) == {WAIT, *STAGES}
    assert all(seconds > 0 for stage, seconds in found.seconds.items() if stage != WAIT)
    assert 0.02 < sum(found.seconds.values()) < 2
    assert found.per_core == pytest.approx(found.samples / sum(found.seconds.values()))
    assert found.loader_samples_per_second is not None
    assert found.loader_samples_per_second > 10
    assert found.limit in found.seconds


def test_without_workers_no_loader_is_timed_and_bad_samples_are_passed_over(tmp_path: Path):
    found = bench(rows(settings(spoilt(tmp_path), global_batch_size=10)), 0.05, 0)
    assert found.loader_samples_per_second is None
    assert found.bad > 0
    assert found.bad / (found.bad + found.samples) == pytest.approx(0.2, abs=0.1)


def test_shards_of_which_nothing_can_be_used_do_not_keep_it_busy_for_ever(tmp_path: Path):
    folder = tmp_path / "shards"
    toys.write_tar(folder / "a.tar", [("a.png", b"<html>"), ("a.txt", b"a"), ("b.png", b"<html>"), ("b.txt", b"b")])
    with pytest.raises(DataError, match=r"a\.tar:.* its image .*; so are 999 others: run contrastive data verify"):
        bench(rows(settings(folder, caption_key="txt", global_batch_size=2)), 0.05, 0)


@pytest.mark.parametrize("stage", list(ADVICE))
def test_what_takes_longest_is_what_limits(stage: str):
    found = Bench(samples=10, seconds={name: 2.0 if name == stage else 1.0 for name in (WAIT, *STAGES)})
    assert found.limit == stage
    assert found.per_core == pytest.approx(10 / 7)
    assert found.advice.startswith(ADVICE[stage])


def test_a_missing_fast_decoder_is_said_where_decoding_limits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "HAS_SIMPLEJPEG", False)
    assert "[fast]" in Bench(samples=1, seconds={"decode": 1.0}).advice
    assert "[fast]" not in Bench(samples=1, seconds={"read": 1.0}).advice
    assert isinstance(decode.HAS_SIMPLEJPEG, bool)
