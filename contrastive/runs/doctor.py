"""`contrastive data doctor`: what would stop or slow a run, found before it, and what to do about it."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from open_clip.factory import parse_model_name

from contrastive.data.loader import SLOTS
from contrastive.data.order import Source
from contrastive.data.places import expand
from contrastive.data.pool import Pool, layout, open_pool, storage_options
from contrastive.data.rows import Plan, RankRows
from contrastive.data.sources import source_specs
from contrastive.data.storage import Storage, is_remote
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.modalities.image import Preprocess, TrainTransform
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.models import beginning, build
from contrastive.recipes.bench import Bench, bench
from contrastive.recipes.doctor import (
    Finding,
    RunFacts,
    ShardFacts,
    of_bad_samples,
    of_order,
    of_shards,
    ranked,
)
from contrastive.recipes.doctor_look import Looked, look_at
from contrastive.recipes.doctor_pace import (
    Disk,
    Download,
    Pace,
    of_disk,
    of_download,
    of_memory,
    of_pace,
)
from contrastive.recipes.doctor_samples import of_captions, of_images, of_large_images
from contrastive.recipes.looking import spread
from contrastive.recipes.mixing import mixing_report
from contrastive.runs import doctor_machine as host
from contrastive.runs.doctor_report import Examined, tell
from contrastive.runs.machine import cores
from contrastive.runs.reading import CROP
from contrastive.runs.steps import new_folder, open_engine
from contrastive.settings import Config
from contrastive.tracking import CountLine
from contrastive.train import task

log = logging.getLogger("contrastive")
MEASURED_BATCH = 64  # samples of each worker: batches of thousands would take minutes to fill its queue
USABLE = 0.5  # of the samples looked at, below which the speed is not measured: substitutes would be timed
STAGES_OF_PIXELS = ("decode", "crop and resize")


@dataclass(frozen=True)
class Request:
    """What a user asks beside the settings of the run."""

    shards: str = "SHARDS"  # as the user named them, for the commands that are advised
    samples: int = 2000
    seconds: float = 5.0  # of each part of the measurement; 0 for none
    size: int = 224  # pixels of the input, where the settings name no model
    ranks: int | None = None
    step_seconds: float | None = None
    out: Path | None = None
    json: Path | None = None


class Model(NamedTuple):
    """What of a run's model decides about its data; `parameters` is None where the settings name no model."""

    preprocess: Preprocess
    tokenizer: Tokenizer
    parameters: int | None


def doctor(config: Config, asked: Request, *, processes: int | None = None, engine: str = "local") -> int:
    """Look at the shards of a run, say what to fix in order of gain; return 1 if something would stop the run.

    Raises:
        UserError: the settings or the shards cannot be used at all.
    """
    if asked.out is not None:
        new_folder(asked.out)
    run = run_facts(config, asked)
    model = describe_model(config, asked.size)
    pool, missing = _open(config, processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    with open_engine(engine, processes) as workers, CountLine("looking at samples") as progress:
        looked = look_at(reader, model.tokenizer, spread(len(pool), asked.samples), workers, progress)
    shards = shard_facts(config, pool, missing)
    measured, worker_bytes = _measured(config, reader, model, run, looked, asked.seconds)
    pace = None
    if measured is not None:
        loader = measured.loader_samples_per_second
        pace = Pace(measured.per_core, cores(), run, shards.epoch_samples, loader, asked.step_seconds)
    seen = Examined(
        run=run,
        shards=shards,
        looked=looked,
        reader=reader,
        images=looked.images(model.preprocess.size),
        memory=host.memory(run, model.preprocess.size, SLOTS, worker_bytes),
        parameters=model.parameters,
        bytes=_bytes(pool, remote=False),
        index_bytes=_index_bytes(pool),
        bench=measured,
        pace=pace,
        disk=None if model.parameters is None else _disk(config, model.parameters, pace, run),
        download=_download(config, pool, shards, run),
    )
    findings = ranked(diagnose(seen, _verdict(config, pool)))
    tell(seen, findings, out=asked.out, json=asked.json)
    return 1 if any(one.severity == "stops the run" for one in findings) else 0


def diagnose(seen: Examined, verdict: Sequence[str]) -> Iterator[Finding]:
    """Yield what all facts mean; `verdict` is what is said of the order's mixing."""
    run, bench_ = seen.run, seen.bench
    yield from of_shards(seen.shards, run)
    yield from of_bad_samples(seen.looked.bad_facts(len(seen.reader.pool)), run)
    yield from of_order(seen.looked.order(verdict), run)
    yield from of_captions(seen.looked.captions(), run)
    yield from of_images(seen.images, run)
    if seen.pace is not None and bench_ is not None:
        yield from of_pace(seen.pace, bench_.advice)
        share = sum(bench_.seconds[stage] for stage in STAGES_OF_PIXELS) / max(1e-9, sum(bench_.seconds.values()))
        is_limiting = seen.pace.is_data_limiting
        yield from of_large_images(seen.images, run, share, is_limiting=is_limiting, stored_bytes=seen.bytes)
    yield from of_memory(seen.memory, run)
    if seen.disk is not None:
        yield from of_disk(seen.disk)
    if seen.download is not None:
        yield from of_download(seen.download)


def run_facts(config: Config, asked: Request) -> RunFacts:
    """Return what a run asks for; its processes are those of train.world_size unless the user says otherwise."""
    train = config.data.train
    spec = "::".join(train) if isinstance(train, list) else str(train)
    return RunFacts(
        shards=asked.shards,
        source=shlex.quote(spec) if spec else "SHARDS",
        total_samples=config.train.total_samples,
        global_batch_size=config.data.global_batch_size,
        ranks=asked.ranks or config.train.world_size or 1,
        workers=config.data.workers,
        max_bad_share=config.data.max_bad_share,
        is_substituting=config.data.damaged_shards == "substitute",
    )


def describe_model(config: Config, size: int) -> Model:
    """Return input size, tokenizer and parameters of the run's model; CLIP's at `size` pixels where it names none.

    Weights are only read where nothing else describes the model: of a folder, a hub or a checkpoint.

    Raises:
        UserError: the model cannot be built.
    """
    settings = config.model
    if not (settings.checkpoint or settings.name or settings.model_cfg or settings.image or settings.text):
        return Model(Preprocess(size), Tokenizer(TokenizerSpec()), None)
    build.check(settings)
    beginning.check(settings)
    if settings.name and parse_model_name(settings.name)[0] is None:
        known = open_clip.get_model_config(settings.name)
        settings = replace(settings, name=None, pretrained=None, model_cfg=known)
    if settings.checkpoint:
        built = beginning.begin(settings)
    elif settings.name:
        built = build.build(settings)
    else:
        with torch.device("meta"):  # sizes without memory
            built = build.build(settings)
    return Model(built.preprocess, built.tokenizer, sum(one.numel() for one in built.model.parameters()))


def _open(config: Config, processes: int | None) -> tuple[Pool, str]:
    """Return what is there of the shards, and the message that names those that are not."""
    missing = ""
    for spec in source_specs(config.data):
        try:
            expand(spec.shards, spec.setting, allow_pipes=config.data.allow_pipes)
        except DataError as error:  # what is no gap ends the opening below
            missing = missing or str(error)
    data = replace(config.data, damaged_shards="substitute")
    with CountLine("indexing shards") as progress:
        return open_pool(data, Storage(storage_options(data)), progress, processes=processes), missing


def shard_facts(config: Config, pool: Pool, missing: str) -> ShardFacts:
    """Return what the indexes of a pool say, over all its sources."""
    unusable: dict[str, int] = {}
    for manifest in pool.manifests:
        for reason, count in manifest.unusable.items():
            unusable[reason] = unusable.get(reason, 0) + count
    shards = [shard for manifest in pool.manifests for shard in manifest.shards]
    return ShardFacts(
        counts=torch.tensor([shard.samples for shard in shards]).numpy(),
        epoch_samples=pool.order(config.data, config.train.seed).epoch_samples,
        unusable=unusable,
        damaged={shard.location: str(shard.damage[0]) for shard in shards if shard.damage},
        missing=missing,
        is_remote=any(is_remote(shard.location) for shard in shards),
    )


def _verdict(config: Config, pool: Pool) -> list[str]:
    """Return what the report on the order says of each source; of one that a batch exceeds, nothing."""
    lines = []
    for spec, manifest in zip(pool.specs, pool.manifests, strict=True):
        source = Source(manifest.counts, spec.weight, *layout(config.data, manifest))
        if config.data.global_batch_size <= source.samples:
            report = mixing_report(source, config.data.global_batch_size, config.train.seed, ranks=1, workers=1)
            lines += [f"{spec.name}: {line}" if spec.name else line for line in report.verdict]
    return lines


def _measured(
    config: Config, reader: Reader, model: Model, run: RunFacts, looked: Looked, seconds: float
) -> tuple[Bench | None, float | None]:
    """Return how fast samples become batches, and the bytes that a worker holds; None where that cannot be known."""
    if seconds <= 0 or len(looked.good) < USABLE * (len(looked.good) + len(looked.bad)):
        return None, None
    crop = config.data.random_crop
    transform = TrainTransform(model.preprocess, (crop[0], crop[1]) if crop else CROP, config.data.decode_scale)
    size = max(1, min(run.global_batch_size // run.ranks, MEASURED_BATCH * max(1, run.workers)))
    plan = Plan(reader.pool.order(config.data, config.train.seed), config.train.seed, size)
    rows = RankRows(reader, transform, model.tokenizer, plan, image_ids="image_id" in task.needs(config))
    threads = torch.get_num_threads()
    try:
        with host.WorkerMemory() as watched:
            return bench(rows, seconds, run.workers), watched.most
    except DataError as error:
        log.warning("the speed was not measured: %s", error)
        return None, None
    finally:
        torch.set_num_threads(threads)


def _bytes(pool: Pool, *, remote: bool) -> int:
    """Return the bytes of all shards, or of those behind a network."""
    shards = [shard for manifest in pool.manifests for shard in manifest.shards]
    return sum(max(0, shard.bytes) for shard in shards if not remote or is_remote(shard.location))


def _index_bytes(pool: Pool) -> int:
    paths = (Path(shard.table) for manifest in pool.manifests for shard in manifest.shards if shard.table)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _download(config: Config, pool: Pool, shards: ShardFacts, run: RunFacts) -> Download | None:
    if not shards.is_remote:
        return None
    kept = config.data.cache_gigabytes * 1e9 if config.data.cache else 0.0
    return Download(_bytes(pool, remote=True), kept, run.total_samples / shards.epoch_samples)


def _disk(config: Config, parameters: int, pace: Pace | None, run: RunFacts) -> Disk:
    train, steps = config.train, -(-run.total_samples // run.global_batch_size)
    by_steps = steps // train.save_every_steps if train.save_every_steps else 0
    by_clock = int(pace.run_hours * 60 / train.save_every_minutes) if pace and train.save_every_minutes else 0
    saves = 1 + max(by_steps, min(by_clock, steps))
    best = train.keep_best if train.best_metric else 0
    free, folder = host.disk_free(Path(config.run.directory))
    return Disk(parameters, train.keep_checkpoints, best, saves, train.ema_decay is not None, free, folder)
