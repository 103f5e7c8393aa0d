"""Every sample exactly once, in one sequence, across layouts, kills and resumes: in arithmetic and in processes."""

import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrastive.data.loader import Loader
from contrastive.data.state import StreamState
from contrastive.data.stream import Reader
from contrastive.errors import UserError
from contrastive.runs.pretrain import prepare, pretrain
from contrastive.settings import DataConfig
from tests import toys
from tests.data.toys import pool, reader, rows, settings


@dataclass(frozen=True)
class Layout:
    world_size: int
    workers: int
    accumulation: int
    batch: int  # per process and micro-batch

    @property
    def global_batch_size(self) -> int:
        return self.world_size * self.accumulation * self.batch


def some_layout(chance: random.Random) -> Layout:
    return Layout(chance.randint(1, 8), chance.randint(0, 5), chance.randint(1, 3), chance.randint(1, 4))


def some_shards(folder: Path, chance: random.Random) -> DataConfig:
    """Write 1 to 7 shards of 0 to 12 samples, one at least not empty; return settings with any lanes and window."""
    sizes = [chance.choice([0, 1, 2, 5, 12]) for _ in range(chance.randint(1, 7))]
    sizes[chance.randrange(len(sizes))] += 3
    for shard, size in enumerate(sizes):
        members = [m for n in range(size) for m in ((f"{shard}_{n}.png", b"image"), (f"{shard}_{n}.txt", b"words"))]
        toys.write_tar(folder / f"{shard:02d}.tar", members)
    options: dict[str, Any] = {"lanes": chance.choice([None, 1, 3, 50]), "window": chance.choice([None, 1, 4, 1000])}
    return settings(folder, caption_key="txt", **options)


def steps_of(data: DataConfig, opened: Reader, layout: Layout, seed: int, consumed: int) -> Iterator[list[str]]:
    """Yield the keys of each global batch as ranks, workers and micro-batches put them together."""
    data = replace(data, global_batch_size=layout.global_batch_size)
    ranks = [
        rows(data, seed=seed, rank=rank, world_size=layout.world_size, consumed=consumed, opened=opened)
        for rank in range(layout.world_size)
    ]
    step = 0
    while True:
        keys: list[str] = []
        for found in ranks:
            found.pieces = max(1, min(layout.workers, found.plan.share))
            numbers = np.concatenate([found.draws(step, piece).number for piece in range(found.pieces)])
            micro_batches = np.split(numbers, layout.accumulation)
            keys += [found.reader.pool.find(n).row.key for part in micro_batches for n in part.tolist()]
        yield keys
        step += 1


@pytest.mark.parametrize("case", range(40))
def test_no_layout_misses_or_doubles_a_sample_and_all_give_one_sequence(tmp_path: Path, case: int):
    chance = random.Random(case)
    data = some_shards(tmp_path, chance)
    opened = reader(data)
    every = sorted(opened.pool.find(n).row.key for n in range(len(opened.pool)))
    alone = next(
        steps_of(data, opened, Layout(1, 0, 1, 3 * len(every)), case, 0)
    )  # three epochs in one batch of one process
    in_order = data.lanes in (None, 1)
    taken: list[str] = []
    while len(taken) < 3 * len(
        every
    ):  # launches of random layouts, each killed after a few steps and resumed by the next
        layout = some_layout(chance)
        for _, keys in zip(range(chance.randint(0, 4)), steps_of(data, opened, layout, case, len(taken)), strict=False):
            # With lanes the rows of a batch are sorted by lane, so that a process reads few of them.
            fixed = next(steps_of(data, opened, Layout(1, 0, 1, len(keys)), case, len(taken)))
            assert keys == fixed
            taken += keys
    for epoch in range(2):
        part = taken[epoch * len(every) : (epoch + 1) * len(every)]
        if in_order:
            assert sorted(part) == every, f"epoch {epoch}"
    if in_order:
        assert taken[: len(alone)] == alone
    assert set(taken) == set(every)


@pytest.mark.parametrize("case", range(12))
def test_with_lanes_the_positions_of_an_epoch_are_its_samples(tmp_path: Path, case: int):
    chance = random.Random(1000 + case)
    data = replace(some_shards(tmp_path, chance), lanes=chance.randint(2, 9), window=chance.randint(1, 9))
    opened = pool(data)
    count, order = len(opened), opened.order(data, case)
    taken = np.concatenate([order.batch(first, 1).number for first in range(2 * count)])
    assert sorted(taken[:count].tolist()) == sorted(taken[count:].tolist()) == list(range(count))
    first = 0
    while first < 2 * count:  # any cut into batches holds the same sets
        size = min(chance.randint(1, 2 * count), 2 * count - first)
        assert sorted(order.batch(first, size).number.tolist()) == sorted(taken[first : first + size].tolist())
        first += size


def _read(data: DataConfig, rank: int, world_size: int, consumed: int, log: Path) -> None:
    """Read as a training process does, and write down each batch that a step would have been given."""
    found = rows(data, rank=rank, world_size=world_size, consumed=consumed)
    with log.open("a") as file:
        for step, batch in enumerate(Loader(found, workers=data.workers).batches(0, 10**6)):
            first = consumed + step * data.global_batch_size + rank * found.plan.share
            content = [batch["index"].tolist(), batch["seed"].tolist(), batch["text"].sum(dim=1).tolist()]
            content.append(batch["image"].flatten(1).sum(dim=1).tolist())
            file.write(json.dumps([first, *content]) + "\n")
            file.flush()
            time.sleep(0.005)


def test_killed_processes_resumed_with_other_layouts_lose_and_repeat_nothing(tmp_path: Path):
    toys.write_shards(tmp_path / "shards", 97, shards=5)
    context, chance = multiprocessing.get_context("fork"), random.Random(7)
    seen: dict[int, list[Any]] = {}
    consumed = 0
    layouts = [(2, 2, 6), (1, 0, 5), (4, 1, 8), (3, 0, 9), (2, 1, 4), (1, 3, 7), (2, 0, 10)]
    for launch, (world_size, workers, size) in enumerate(layouts):
        data = settings(tmp_path / "shards", global_batch_size=size, workers=workers)
        logs = [tmp_path / f"{launch}-{rank}.log" for rank in range(world_size)]
        ranks = [
            context.Process(target=_read, args=(data, rank, world_size, consumed, log)) for rank, log in enumerate(logs)
        ]
        for process in ranks:
            process.start()
        enough = chance.randint(3, 8)
        deadline = time.monotonic() + 60
        while not all(log.exists() and log.read_text().count("\n") >= enough for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in ranks:
            process.kill()  # wherever it is
            process.join()
        whole = [[json.loads(line) for line in log.read_text().split("\n")[:-1]] for log in logs]
        delivered = min(len(lines) for lines in whole)  # the steps that all ranks have done
        for lines in whole:
            for first, *columns in lines:
                for position, row in enumerate(zip(*columns, strict=True), start=first):
                    assert seen.setdefault(position, row) == row, "another sample, crop or caption at a position"
        saved = StreamState(consumed + delivered * size, pool(data).fingerprint, 0)
        consumed = pool(data).state(data, 0).resumed_from(StreamState.from_dict(saved.to_dict())).consumed
    assert consumed > 2 * 97
    numbers = [seen[position][0] for position in range(consumed)]
    assert sorted(numbers[:97]) == sorted(numbers[97:194]) == list(range(97))
    alone = [n for batch in Loader(rows(settings(tmp_path / "shards", global_batch_size=1))).batches(0, consumed)
             for n in batch["index"].tolist()]  # fmt: skip
    assert numbers == alone


def _refused(overrides: list[str], other: str) -> str:
    from contrastive import distributed

    if distributed.rank() == 1:
        overrides = [*overrides, f"data.train={other}"]
    prepared = prepare([], overrides)
    assert prepared is not None
    with pytest.raises(UserError) as caught:
        pretrain(prepared)
    return str(caught.value)


def test_ranks_that_see_other_samples_are_caught(shards: Path, tmp_path: Path):
    other = toys.write_shards(tmp_path / "other", 39, shards=3)
    messages = toys.on_ranks(_refused, 2, toys.overrides(shards, tmp_path / "run"), str(other))
    assert all("data: rank 1 sees other samples than rank 0" in message for message in messages)
