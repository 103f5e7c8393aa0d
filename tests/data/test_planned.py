"""The planned stream inside webdataset's own pipelines, of the installed version and of 0.2."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import webdataset
from torch.utils.data import DataLoader

from contrastive.data.planned import PlannedSamples
from contrastive.data.rows import Plan
from tests import toys
from tests.data.toys import reader, settings

OLD = Path(sys.prefix) / "webdataset-0.2"  # put there by `make test`


def planned(folder: Path, steps: int = 5) -> PlannedSamples:
    data = settings(folder, global_batch_size=8)
    found = reader(data)
    return PlannedSamples(found, Plan(found.pool.order(data, 0), 0, 8), 0, steps)


def keys(folder: Path, steps: int = 5) -> list[str]:
    stage = planned(folder, steps)
    return [stage.reader.pool.find(n).row.key for step in range(steps) for n in stage.plan.draws(step).number.tolist()]


def through_webdataset(folder: Path, workers: int) -> list[list[str]]:
    stages = [
        planned(folder),
        webdataset.map(lambda sample: {**sample, "txt": sample["txt"].decode()}),
        webdataset.to_tuple("__key__", "png", "txt"),
        webdataset.batched(8, collation_fn=list),
    ]
    pipeline = webdataset.DataPipeline(*stages)
    found = DataLoader(pipeline, batch_size=None, num_workers=workers)
    return [[key for key, image, text in batch if image and text.startswith("a picture")] for batch in found]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_pipeline_come_in_the_planned_order(shards: Path, workers: int):
    batches = through_webdataset(shards, workers)
    assert [len(batch) for batch in batches] == [8] * 5
    assert list(chain(*batches)) == keys(shards)
    assert sorted(chain(*batches)) == [f"s{n:05d}" for n in range(40)]


def test_samples_are_those_that_webdataset_reads(shards: Path):
    ours = {sample["__key__"]: sample for sample in planned(shards)}
    theirs = webdataset.WebDataset([str(p) for p in sorted(shards.glob("*.tar"))], shardshuffle=False)
    count = 0
    for sample in theirs:
        members = {name: value for name, value in sample.items() if not name.startswith("__")}
        assert {name: value for name, value in ours[sample["__key__"]].items() if not name.startswith("__")} == members
        count += 1
    assert count == len(ours) == 40


def test_its_writers_take_our_samples_and_we_read_theirs(shards: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "out" / "%05d.tar"), maxcount=16, verbose=0) as writer:
        for sample in planned(shards):
            writer.write({name: value for name, value in sample.items() if name != "__url__"})
    again = planned(tmp_path / "out")
    assert again.reader.pool.shard_count == 3
    assert sorted(sample["__key__"] for sample in again) == sorted(keys(shards))


@pytest.mark.skipif(not OLD.is_dir(), reason="webdataset 0.2 is put beside the environment by `make test`")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_older_webdataset_gives_the_same_batches(shards: Path, workers: int):
    code = (
        "import json, sys, webdataset\n"
        "from pathlib import Path\n"
        "from tests.data.test_planned import through_webdataset\n"
        "assert webdataset.__version__.startswith('0.2'), webdataset.__version__\n"
        "print(json.dumps(through_webdataset(Path(sys.argv[1]), int(sys.argv[2]))))"
    )
    root = Path(toys.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(shards), str(workers)],
        env={"PYTHONPATH": f"{OLD}:{root}", "OMP_NUM_THREADS": "1", "HOME": str(shards), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list(chain(*json.loads(done.stdout.splitlines()[-1]))) == keys(shards)
