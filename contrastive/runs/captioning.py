"""`contrastive data add-captions`: shards written again with new captions beside the old ones."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.data.index import key_of
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.quarantine import json_line
from contrastive.data.rows import Replaced
from contrastive.data.shards import Manifest, Shard
from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.files import replacing, sha256
from contrastive.recipes.curation.captioning import Captioned, CaptionShard, How, new_name
from contrastive.recipes.curation.captions import REJECTED, CaptionIndex, read_captions, rejected_line
from contrastive.recipes.curation.names import Integers
from contrastive.recipes.engine import Engine
from contrastive.recipes.looking import spread
from contrastive.recipes.packing.finishing import write_provenance
from contrastive.recipes.packing.space import told_when_full
from contrastive.recipes.packing.workplace import LISTING, publish, working
from contrastive.recipes.records import Rejected
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import EXAMPLES, Example, Step, example
from contrastive.runs.opening import console, open_shards
from contrastive.runs.provenance import inputs_of, reading_of
from contrastive.runs.steps import command_line, conclude, new_folder, open_engine
from contrastive.settings import Config, DataConfig
from contrastive.tracking import CountLine

WHOLE, QUARANTINE = "whole", "quarantine.jsonl"
LOOKED_AT = 200  # samples, among which examples are found


@dataclass(frozen=True)
class Source:
    """A table of captions, and the columns in it."""

    file: Path
    key: str = "key"
    caption: str = "caption"


@dataclass
class Added:
    """What became of all shards; `used` says which captions of the index some sample took."""

    used: np.ndarray[Any, np.dtype[np.bool_]]
    shards: list[Captioned] = field(default_factory=list)

    @property
    def captioned(self) -> int:
        """Samples that have new captions."""
        return sum(one.captioned for one in self.shards)

    @property
    def rows(self) -> int:
        """Samples in all."""
        return sum(one.rows for one in self.shards)


def add_captions(
    config: Config,
    source: Source,
    out: Path,
    how: How,
    *,
    restart: bool = False,
    processes: int | None = None,
    engine: str = "local",
) -> int:
    """Write the shards again into `out` with the captions of a table; return 0.

    `restart` throws away what other captions left unfinished there.

    Raises:
        ConfigError: the table has no such columns.
        DataError: the table, the shards or the folder cannot be used, or no sample has a caption in the table.
    """
    new_folder(out)
    if not source.file.is_file():
        raise DataError(f"--captions {source.file}: no such file")
    pool, data = _opened(config, how, processes)
    _shards(pool)
    captions = {"file": source.file.name, "sha256": sha256(source.file), "key": source.key, "caption": source.caption}
    goes = {"field": how.field, "as": how.place, "replace": how.replace}
    identity = {"step": "add-captions", "captions": captions, **goes, "inputs": inputs_of(pool)}
    out = out.expanduser().resolve()
    try:
        with working(out, identity, restart) as work, open_engine(engine, processes) as workers:
            if work is None:
                console().print(f"{out}: has these captions already; nothing to do", soft_wrap=True, highlight=False)
                return 0
            with told_when_full(str(out)):
                step = _made(work, out, data, pool, source, how, identity, workers)
            publish(work / WHOLE, out)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise DataError(f"--out {out}: {what}{error.strerror or error}; mend it, and run the command again") from error
    conclude(step, out)
    return 0


def _made(
    work: Path,
    out: Path,
    data: DataConfig,
    pool: Pool,
    source: Source,
    how: How,
    identity: Mapping[str, Any],
    workers: Engine,
) -> Step:
    """Write all that OUT is to hold into the folder WHOLE; return the report."""
    with CountLine("reading captions") as progress:
        rows = read_captions(source.file, source.key, source.caption)
        index = CaptionIndex.build(work / LISTING, rows, lambda done: progress(done, 0))
    added = _written(_shards(pool), CaptionShard(work, index, how, Storage(storage_options(data))), workers)
    if not added.captioned:
        rule = "are the keys those of the samples? name their column with --key-column"
        raise DataError(f"{source.file}: none of its {len(index):,} captions is of a sample; {rule}")
    whole = _gather(work, added, identity)
    rejected = _write_rejected(whole, index, added)
    new = _indexed(data, pool, whole, out, added)
    step = _report(pool, new, how, index, added, rejected)
    step.examples = _examples(Reader(new, Storage(storage_options(data)), "substitute"), index)
    step.provenance = identity
    return step


def _opened(config: Config, how: How, processes: int | None) -> tuple[Pool, DataConfig]:
    """Return the samples, and settings that say how to read them once they have the captions.

    Where no sample has a caption yet, all that have an image are meant.
    """
    try:
        return open_shards(config, processes=processes), config.data
    except DataError as error:
        images = {member.strip(): 1.0 for member in config.data.image_key.split(";")}
        bare = replace(config, data=replace(config.data, caption_key=images))
        try:
            pool = open_shards(bare, processes=processes)
        except DataError:
            raise error from None
        return pool, replace(config.data, caption_key=how.caption_key)


def _shards(pool: Pool) -> list[Shard]:
    found = [shard for manifest in pool.manifests for shard in manifest.shards if shard.rows]
    names: dict[str, str] = {}
    for shard in found:
        other = names.setdefault(new_name(shard.location), shard.location)
        if other != shard.location:
            rule = "make one folder of them first, with contrastive data merge"
            raise DataError(f"{shard.location}: has the name of {other}, and both would be written as it; {rule}")
    return found


def _written(shards: Sequence[Shard], write: CaptionShard, workers: Engine) -> Added:
    owners = np.full(len(write.captions), -1, np.int32)
    added = Added(np.zeros(0, np.bool_))
    with CountLine("writing shards") as progress:
        for number, (found, taken) in enumerate(workers.map(write, shards)):
            _refuse_doubles(taken, owners, number, shards, write.captions)
            owners[taken] = number
            added.shards.append(found)
            progress(number + 1, len(shards))
    added.used = owners >= 0
    return added


def _refuse_doubles(
    taken: Integers, owners: np.ndarray[Any, Any], number: int, shards: Sequence[Shard], captions: CaptionIndex
) -> None:
    """Refuse captions of two samples: nobody could say which one they are of."""
    places, counts = np.unique(taken, return_counts=True)
    twice = places[(owners[places] >= 0) | (counts > 1)]
    if len(twice):
        place = int(twice[0])
        other = shards[owners[place]].location if owners[place] >= 0 else shards[number].location
        rule = "make keys unique first, with contrastive data reshard"
        raise DataError(f"{shards[number].location}: its key {captions.at(place).key!r} also stands in {other}; {rule}")


def _write_rejected(out: Path, index: CaptionIndex, added: Added) -> Counter[str]:
    """Write every row that gave no caption into rejected.jsonl; return how many there are by reason."""
    counts: Counter[str] = Counter({name: count for name, count in index.counts.items() if name != "captions"})
    with replacing(out / REJECTED) as file:
        with (index.folder / REJECTED).open("rb") as before:
            shutil.copyfileobj(before, file)
        for shard in added.shards:
            for row, key, reason, message in shard.odd:
                counts[reason] += 1
                file.write(rejected_line(Rejected(f"{shard.name} row {row}", key, reason, message)).encode())
        for place in map(int, index.in_file_order(np.flatnonzero(~added.used))):
            one = index.at(place)
            counts["key: unknown"] += 1
            message = f"{one.where}: no sample has the key {one.key!r}"
            file.write(rejected_line(Rejected(one.where, one.key, "key: unknown", message)).encode())
    return counts


def _gather(work: Path, added: Added, identity: Mapping[str, Any]) -> Path:
    """Bring what OUT is to hold together in a folder; return it. A program that is killed meanwhile goes on here."""
    whole = work / WHOLE
    whole.mkdir(exist_ok=True)
    for shard in added.shards:
        if (work / shard.name).exists():
            (work / shard.name).replace(whole / shard.name)
    shards = {one.name: {"samples": one.rows, "bytes": one.bytes, "sha256": one.sha256} for one in added.shards}
    write_provenance(whole, identity, {"samples": added.rows, "shards": shards})
    return whole


def _indexed(data: DataConfig, pool: Pool, whole: Path, out: Path, added: Added) -> Pool:
    """Index the new shards and hold them against the old ones; return their samples."""
    data = reading_of(pool, data, whole) if data.sources else replace(data, train=str(whole), damaged_shards="fail")
    new = open_pool(data, Storage(storage_options(data)), quarantine=_quarantine(pool, whole, out))
    rows = sum(shard.rows for manifest in new.manifests for shard in manifest.shards)
    if rows != added.rows:
        raise DataError(f"--out {out}: holds {rows:,} rows, not {added.rows:,}; was a shard changed meanwhile?")
    return new


def _report(pool: Pool, new: Pool, how: How, index: CaptionIndex, added: Added, rejected: Mapping[str, int]) -> Step:
    figures = {
        "samples with new captions": added.captioned,
        "samples without": added.rows - added.captioned,
        "captions": len(index),
        **{f"rejected, {reason}": count for reason, count in rejected.items()},
        "shards": len(added.shards),
        "bytes": sum(one.bytes for one in added.shards),
        "fingerprint": new.fingerprint,
    }
    key = how.caption_key
    notes = [f"train with data.caption_key={key}, or draw from several: data.caption_key={{txt: 0.3, {key}: 0.7}}"]
    damaged = sum(bool(shard.damage) for manifest in pool.manifests for shard in manifest.shards)
    if damaged:
        notes.append(f"{damaged:,} of the shards are damaged; what is whole of them was written")
    return Step("New captions", command_line(), added.rows, added.rows, figures=figures, notes=notes)


def _quarantine(pool: Pool, whole: Path, out: Path) -> list[Path]:
    """Write down the rows that were left out of the old shards, so that they stay so: rows keep their numbers."""
    lines = [line for manifest in pool.manifests for line in _left_out(manifest, out)]
    if lines:
        with replacing(whole / QUARANTINE) as file:
            file.writelines(line.encode() for line in lines)
    return [whole / QUARANTINE] if lines else []


def _left_out(manifest: Manifest, out: Path) -> Iterator[str]:
    for number, shard in enumerate(manifest.shards):
        place, table = str(out / new_name(shard.location)), manifest.rows_of(number)
        for row in shard.skipped:
            key, why = key_of(table, row), "quarantined before"
            yield json_line(Replaced(place, key, row, -1, why, f"{place}:{key}: {why}", -1))


def _examples(reader: Reader, index: CaptionIndex) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {"new caption": [], "none": []}
    for number in spread(len(reader.pool), LOOKED_AT):
        sample = Sample(reader, number)
        new = [text for _, text in index.find(sample.key)]
        group = found["new caption" if new else "none"]
        if len(group) == EXAMPLES:
            continue
        try:
            old = " | ".join(sample.captions)
            shown = example(sample.key, " | ".join(new) or old, sample.image, f"before: {old[:200]}" if new else "")
        except BadSampleError as error:
            shown = example(sample.key, " | ".join(new), None, error.reason)
        group.append(shown)
    return {name: group for name, group in found.items() if group}
