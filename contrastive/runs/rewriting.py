"""`contrastive data reshard` and `merge`: shards of shards, their members byte for byte."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError
from contrastive.files import replacing
from contrastive.recipes.curation.names import Integers
from contrastive.recipes.curation.repacking import Keys, Prefix
from contrastive.recipes.curation.tally import Tally
from contrastive.recipes.engine import Engine
from contrastive.recipes.looking import spread
from contrastive.recipes.packing.pack import Packed, pack
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.step import EXAMPLES, Step
from contrastive.runs.opening import open_shards
from contrastive.runs.provenance import UNKNOWN, inputs_of, reading_of
from contrastive.runs.steps import command_line, conclude, new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine

RENAMED = "renamed.jsonl"


@dataclass(frozen=True)
class Rewriting:
    """How shards are written again; see `Packing`. `restart` throws away what was begun in another way."""

    out: Path
    shard_size: int = 10_000
    seed: int | None = 0
    splits: Mapping[str, float] = field(default_factory=dict)
    prefix: Prefix = "auto"
    restart: bool = False


def reshard(config: Config, how: Rewriting, *, processes: int | None = None, engine: str = "local") -> int:
    """Write the samples again in equal shards, mixed or in their order; return 0.

    Raises:
        DataError: the shards or the folder cannot be used.
    """
    return _rewrite_all(config, how, "reshard", processes, engine)


def merge(config: Config, how: Rewriting, *, processes: int | None = None, engine: str = "local") -> int:
    """Write the samples of several sources into one set of shards; return 0.

    Raises:
        ConfigError: there is one source.
        DataError: the shards or the folder cannot be used.
    """
    if len(config.data.sources) < 2:
        raise ConfigError("merge: there is one source; name several, like cc3m=/data/cc3m coco=/data/coco, or reshard")
    return _rewrite_all(config, how, "merge", processes, engine)


def with_sources(config: Config, sources: Mapping[str, str]) -> Config:
    """Return settings whose data are these sources: shards by name."""
    return replace(config, data=replace(config.data, train="", sources=dict(sources)))


def repack(
    config: Config,
    pool: Pool,
    numbers: Integers,
    how: Rewriting,
    identity: Mapping[str, Any],
    workers: Engine,
    step: Step,
) -> None:
    """Write samples into new shards and hold what is there against them; figures and notes go into `step`.

    Raises:
        DataError: the folder cannot be used, or a sample is missing in the end.
    """
    with CountLine("naming samples") as progress:
        keys = Keys.of(pool, numbers, workers, how.prefix, progress)
    options = storage_options(config.data)
    packing = Packing(how.shard_size, how.seed, how.splits, check="none", storage=options)
    packed = pack(keys.records(Storage(options)), how.out, packing, workers, identity=identity, restart=how.restart)
    renamed = _write_renamed(keys, how.out)
    new = open_pool(reading_of(pool, config.data, how.out), Storage(options))
    rejected = sum(packed.rejected.values())
    if len(new) != packed.samples or len(new) + rejected != len(numbers):
        raise DataError(
            f"--out {how.out}: holds {len(new):,} samples, not {len(numbers):,}; were shards changed meanwhile?"
        )
    step.kept = len(new)
    step.dropped = {**step.dropped, **packed.rejected}
    facts = {"shards": new.shard_count, **_split_facts(packed), "bytes": packed.bytes}
    step.figures.update({**facts, "keys that were changed": renamed, "fingerprint": new.fingerprint})
    if renamed:
        step.notes.append(f"{renamed:,} keys stood twice, or fit no tar, and are others now; {RENAMED} says which")
    if packed.kinds.get(UNKNOWN):
        rule = f"they are called KEY.{UNKNOWN}, which training leaves out; contrastive data verify finds such samples"
        step.notes.append(f"{packed.kinds[UNKNOWN]:,} images are of no known kind: {rule}")
    if rejected:
        step.notes.append(f"{rejected:,} samples cannot be read and are left out; rejected.jsonl says which, and why")


def examples(pool: Pool, config: Config) -> dict[str, Any]:
    """Return some samples to look at, evenly spread."""
    numbers = np.array(spread(len(pool), EXAMPLES), np.int64)
    tally = Tally(len(numbers), {})
    tally.add(numbers, np.full(len(numbers), ""), np.zeros((len(numbers), 0), np.float32))
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    return tally.examples(reader, lambda sample: sample.found.source.name)


def _rewrite_all(config: Config, how: Rewriting, name: str, processes: int | None, engine: str) -> int:
    new_folder(how.out)
    with open_engine(engine, processes) as workers:
        pool = open_shards(config, processes=processes)
        identity = {"step": name, "prefix": how.prefix, "inputs": inputs_of(pool)}
        step = Step(name.capitalize(), command_line(), len(pool), len(pool), provenance=identity)
        step.examples = examples(pool, config)
        repack(config, pool, np.arange(len(pool)), how, identity, workers, step)
    for spec, manifest in zip(pool.specs, pool.manifests, strict=True):
        if len(pool.specs) > 1:
            step.figures[f"from {spec.name}"] = len(manifest)
    keys = {spec.captions.keys for spec in pool.specs}
    if len(keys) > 1:
        step.notes.append(f"the sources keep captions in different members; train with {_all_keys(pool)}")
    conclude(step, how.out)
    return 0


def _all_keys(pool: Pool) -> str:
    keys = dict.fromkeys(key for spec in pool.specs for key in spec.captions.keys)
    return f"data.caption_key={{{', '.join(f'{key}: 1' for key in keys)}}}"


def _split_facts(packed: Packed) -> dict[str, str]:
    """Return how large the shards of each split are."""
    found = {}
    for name, split in packed.splits.items():
        sizes = [shard["samples"] for shard in split["shards"].values()]
        low, high = min(sizes), max(sizes)
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        found[f"samples of a shard{name and f' of {name}'}"] = each
    return found


def _write_renamed(keys: Keys, out: Path) -> int:
    count = 0
    with replacing(out / RENAMED) as file:
        for found, key in keys.renamed():
            said = {"key": key, "was": found.row.key, "source": found.source.name, "shard": found.location}
            file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            count += 1
    if not count:
        (out / RENAMED).unlink()
    return count
