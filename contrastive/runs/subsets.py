"""`contrastive data subset`: what lists choose together, as a list, as rows that training skips, or as new shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contrastive.data.pool import storage_options
from contrastive.data.quarantine import json_line
from contrastive.data.rows import record
from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import ConfigError, DataError
from contrastive.files import replacing
from contrastive.recipes.curation.lists import read_list
from contrastive.recipes.curation.subsets import Missing, PoolNames, Subset
from contrastive.recipes.curation.tally import Tally
from contrastive.recipes.step import VERDICTS, Step
from contrastive.recipes.uids import write_uids
from contrastive.recipes.verdicts import BATCH, Verdict, writing_verdicts
from contrastive.runs.opening import open_shards
from contrastive.runs.provenance import inputs_of
from contrastive.runs.rewriting import Rewriting, repack
from contrastive.runs.steps import command_line, conclude, new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine

SKIPS = "skip.jsonl"


@dataclass(frozen=True)
class Choice:
    """What a subset is: what all `lists` and `uids` keep and no `excluded` one does; of that a `sample`."""

    lists: Sequence[Path] = ()
    uids: Sequence[Path] = ()
    excluded: Sequence[Path] = ()
    sample: int | float | None = None
    seed: int = 0
    missing: Missing = "refuse"


@dataclass(frozen=True)
class Use:
    """What becomes of a subset: a list in `out`, with `skip` applied to the shards' index; or new shards in `out`."""

    out: Path
    skip: bool = False
    rewrite: bool = False
    shard_size: int = 10_000
    uids_out: Path | None = None
    restart: bool = False  # throw away what another rewriting left unfinished


def subset(config: Config, choice: Choice, use: Use, *, processes: int | None = None, engine: str = "local") -> int:
    """Choose samples, apply the choice and report; return 0.

    Raises:
        ConfigError: nothing chooses.
        DataError: a list, the shards or the folder cannot be used, or no sample is left.
    """
    if not (choice.lists or choice.uids or choice.excluded) and choice.sample is None:
        raise ConfigError("subset: nothing says which samples; give --list, --uids, --exclude or --sample")
    new_folder(use.out)
    with open_engine(engine, processes) as workers:
        pool = open_shards(config, processes=processes)
        storage = Storage(storage_options(config.data))
        with CountLine("naming samples") as progress:
            found = _chosen(choice, PoolNames(pool, storage, workers, progress))
        if not len(found.numbers):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items())
            raise DataError(
                f"subset: keeps none of {len(pool):,} samples ({reasons}); do the lists exclude each other?"
            )
        if use.uids_out is not None:
            _write_uids(use.uids_out, found)
        step = _report(found, Reader(pool, storage, "substitute"))
        if use.rewrite:
            how = Rewriting(use.out, use.shard_size, choice.seed, restart=use.restart)
            repack(config, pool, found.numbers, how, step.provenance, workers, step)
    _write_verdicts(found, use.out)
    if use.skip:
        step.notes.append(_skip(config, found, use.out))
    conclude(step, use.out)
    return 0


def _chosen(choice: Choice, names: PoolNames) -> Subset:
    found = Subset(names, choice.missing)
    fingerprint = names.pool.fingerprint
    for path in choice.lists:
        found.keep(read_list(path, fingerprint))
    for path in choice.uids:
        found.keep(read_list(path, fingerprint, "uid"))
    for path in choice.excluded:
        found.exclude(read_list(path, fingerprint))
    if choice.sample is not None:
        found.draw(choice.sample, choice.seed)
    return found


def _provenance(found: Subset) -> dict[str, object]:
    pool = found.names.pool
    return {"step": "subset", "missing": found.missing, "made of": found.made_of, "inputs": inputs_of(pool)}


def _report(found: Subset, reader: Reader) -> Step:
    tally, pool = Tally(len(found.codes), {}), found.names.pool
    reasons = np.array(found.reasons, np.str_)
    for start in range(0, len(pool), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(pool)))
        tally.add(numbers, reasons[found.codes[numbers]], np.zeros((len(numbers), 0), np.float32))
    notes = [f"{one['file']}: {one['samples known']:,} of {len(pool):,} samples are in it" for one in found.made_of
             if "file" in one]  # fmt: skip
    return Step(
        title="Subset",
        command=command_line(),
        samples=len(pool),
        kept=len(found.numbers),
        dropped=found.dropped,
        examples=tally.examples(reader, lambda sample: sample.found.source.name),
        notes=notes,
        provenance=_provenance(found),
    )


def _write_verdicts(found: Subset, out: Path) -> None:
    with writing_verdicts(out / VERDICTS, found.names.pool, _provenance(found)) as verdicts:
        for number, code in enumerate(map(int, found.codes)):  # a list would be nine times the array
            verdicts.add(Verdict(number, found.reasons[code]))


def _write_uids(path: Path, found: Subset) -> None:
    names, numbers = found.names.of("uid"), found.numbers
    held = found.names.has_uid[numbers]
    if not held.all():
        first = found.names.pool.find(int(numbers[~held][0])).where
        count = np.count_nonzero(~held)
        rule = "their json member has none of 32 hexadecimal digits; leave --uids-out away"
        raise DataError(f"--uids-out {path}: {count:,} of {len(numbers):,} samples have no uid ({first}): {rule}")
    write_uids(path, names[numbers])


def _skip(config: Config, found: Subset, out: Path) -> str:
    """Leave out of the shards' index what the subset leaves out; return what to tell of it."""
    path = out / SKIPS
    with replacing(path) as file:
        file.writelines(line.encode() for line in _lines(found))
    before = len(found.names.pool)
    pool = open_shards(config, quarantine=[path])
    if len(pool) != len(found.numbers):
        rule = "run contrastive data index SHARDS --forget-quarantine, and the subset again"
        raise DataError(f"{path}: {len(pool):,} samples are left, not {len(found.numbers):,}; {rule}")
    return (
        f"{before - len(pool):,} samples are left out of the index: training on these shards now reads {len(pool):,} "
        f"(fingerprint {pool.fingerprint}). contrastive data index SHARDS --forget-quarantine takes all of them back, "
        f"also those quarantined before."
    )


def _lines(found: Subset) -> Iterator[str]:
    for number in map(int, np.flatnonzero(~found.kept)):
        reason = found.reasons[found.codes[number]]
        one = found.names.pool.find(number)
        # Not the reason alone: one that begins with "shard:" would be passed over; see contrastive.data.skips.
        yield json_line(record(one, BadSampleError(f"subset: {reason}", f"{one.where}: {reason}"), -1))
