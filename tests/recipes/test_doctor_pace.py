from dataclasses import replace

import pytest

from contrastive.recipes.doctor import RunFacts, gigabytes
from contrastive.recipes.doctor_pace import (
    Disk,
    Download,
    Memory,
    Pace,
    of_disk,
    of_download,
    of_memory,
    of_pace,
    shown_hours,
)

RUN = RunFacts("shards", total_samples=3_600_000, global_batch_size=1000, ranks=2, workers=4)
PACE = Pace(per_core=100.0, cores=16, run=RUN, epoch_samples=720_000)
GB = 1e9


def test_without_a_step_time_the_data_alone_decide_the_time():
    assert PACE.data == 800  # two processes of four workers
    assert PACE.epoch_hours == pytest.approx(720_000 / 800 / 3600)
    assert PACE.run_hours == pytest.approx(3_600_000 / 800 / 3600)
    assert (PACE.steps, PACE.workers_needed) == (3600, None)
    assert of_pace(PACE, "") == []


def test_what_was_measured_counts_before_what_a_core_does_alone():
    assert replace(PACE, loader=360.0).data == 720


def test_workers_beyond_the_cores_add_nothing():
    assert replace(PACE, cores=4).data == 400


def test_too_few_workers_for_a_step_time_are_told_with_the_hours_they_cost():
    slow = replace(PACE, step_seconds=0.625)  # 1,600 samples/s
    (found,) = of_pace(slow, "decoding")
    assert "800 samples/s of 1,600" in found.what
    assert found.gain == "the model waits 50% of the time, 37.5 min of the run"
    assert (slow.workers_needed, found.fix) == (8, "data.workers=8")
    short = of_pace(replace(slow, cores=8), "decoding")[0].fix
    assert short == "16 cores are needed and 8 are here: data.workers=4, and less work: decoding"


def test_where_the_model_limits_there_is_no_finding():
    fast = replace(PACE, step_seconds=2.0)
    assert fast.samples_per_second == 500
    assert not fast.is_data_limiting
    assert of_pace(fast, "") == []


def test_without_workers_data_and_model_take_turns():
    alone = replace(PACE, run=replace(RUN, workers=0), step_seconds=5.0)  # 200 samples/s each
    assert alone.samples_per_second == pytest.approx(100)
    assert alone.is_data_limiting


@pytest.mark.parametrize(("free", "severity"), [(1.5, "stops the run"), (3.0, "wastes")])
def test_a_small_dev_shm_is_told(free: float, severity: str):
    (found,) = of_memory(Memory(batch=10**8, slots=5, shared_free=free * 2e8), RUN)  # of two processes
    assert found.severity == severity
    assert "/dev/shm has" in found.what
    assert "--shm-size=1g" in found.fix


def test_memory_that_suffices_is_not_told_and_what_is_short_is():
    memory = Memory(10**8, 5, 10 * GB, worker=GB, available=20 * GB)
    assert of_memory(memory, RUN) == []
    (found,) = of_memory(replace(memory, available=4.5 * GB), RUN)
    assert "need about 9.0 GB of memory and 4.5 GB are free" in found.what
    assert found.fix.startswith("data.workers=2")


def test_what_loaders_take_is_their_own_memory_and_the_batches_of_each_process():
    assert Memory(100, 5, worker=10.0).wanted(replace(RUN, ranks=2, workers=3)) == 10 * 6 + 100 * 5 * 2


def test_without_workers_there_is_no_shared_memory_to_lack():
    assert of_memory(Memory(10**8, 5, 0.0), replace(RUN, workers=0)) == []


def test_a_low_disk_stops_the_run():
    disk = Disk(10**9, kept=2, best=1, saves=100, has_average=True, free=70 * GB, folder="/runs")
    assert (disk.checkpoint, disk.count) == (16 * 10**9, 4)
    (found,) = of_disk(disk)
    assert "4 checkpoints of 16.0 GB need 70.4 GB and 70.0 GB are free at /runs" in found.what
    assert of_disk(replace(disk, free=71 * GB)) == []
    assert of_disk(replace(disk, saves=1)) == []
    assert "train.keep_checkpoints=2" in of_disk(replace(disk, kept=None))[0].fix


def test_a_cache_that_would_save_downloads_is_told():
    bare = Download(100 * GB, 0.0, 3.0)
    assert bare.bytes == pytest.approx(300 * GB)
    (found,) = of_download(bare)
    assert found.gain == "a cache saves 200.0 GB"
    assert "data.cache_gigabytes=105" in found.fix
    assert of_download(Download(100 * GB, 100 * GB, 3.0)) == []
    assert of_download(Download(100 * GB, 0.0, 1.0)) == []
    assert Download(100 * GB, 0.0, 0.5).bytes == pytest.approx(50 * GB)


def test_numbers_are_shown_as_people_read_them():
    assert [gigabytes(n) for n in (2e9, 5e6, 900)] == ["2.0 GB", "5.0 MB", "0.9 KB"]
    assert [shown_hours(h) for h in (72, 5, 0.5, 0.001)] == ["3.0 days", "5.0 h", "30.0 min", "3.6 s"]
