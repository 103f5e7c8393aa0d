"""`contrastive data`: each command opens the shards that a configuration names, shows a table, and may write JSON."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contrastive import config as configuration_files
from contrastive.data.order import Source
from contrastive.data.places import expand
from contrastive.data.pool import Pool, layout, open_pool, storage_options
from contrastive.data.quarantine import json_line
from contrastive.data.rows import Plan, RankRows
from contrastive.data.sources import source_specs
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError
from contrastive.modalities.image import Preprocess, TrainTransform
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.recipes import bench as benches
from contrastive.recipes import stats as statistics
from contrastive.recipes import verify as verification
from contrastive.recipes.looking import spread
from contrastive.recipes.mixing import Mixing, mixing_report
from contrastive.settings import Config
from contrastive.tracking import CountLine

CROP = (0.9, 1.0)  # of `bench`, where the run has none: open_clip's
WORST_SHARDS = 5
PICTURES = (".png", ".svg", ".pdf")


def configuration(files: Sequence[str], overrides: Sequence[str], shards: Sequence[str]) -> Config:
    """Return the settings of a run's files, with `shards` in the place of its data.

    Raises:
        ConfigError: see `contrastive.config.load`; or nothing names shards.
    """
    config = configuration_files.load(files, overrides)
    if shards:
        config = replace(config, data=replace(config.data, train=list(shards), sources={}))
    if not config.data.train and not config.data.sources:
        raise ConfigError(f"{', '.join(files) or 'no file'}: names no shards in data.train or data.sources")
    return config


def index(
    config: Config,
    *,
    refresh: bool = False,
    quarantine: Sequence[Path] = (),
    forget_quarantine: bool = False,
    processes: int | None = None,
    json: Path | None = None,
) -> int:
    """Index the shards and say what they hold; return 0."""
    begin = time.monotonic()
    with CountLine("indexing shards") as progress:
        pool = _open(
            config,
            processes=processes,
            progress=progress,
            quarantine=quarantine,
            refresh=refresh,
            forget_quarantine=forget_quarantine,
        )
    rows = {}
    for spec, manifest in zip(pool.specs, pool.manifests, strict=True):
        rows[spec.name or "shards"] = {
            "shards": len(manifest.shards),
            "samples": len(manifest),
            "not usable": dict(manifest.unusable),
            "odd, but harmless": dict(manifest.notes),
            "bytes": sum(max(0, shard.bytes) for shard in manifest.shards),
            "damage": {one.location: [str(damage) for damage in one.damage] for one in manifest.shards if one.damage},
            "fingerprint": manifest.fingerprint,
        }
    console = _console()
    for name, found in rows.items():
        grid = Table("", "", title=name, show_header=False, title_justify="left")
        for key, value in found.items():
            grid.add_row(key, _shown(value))
        console.print(grid)
    if any(found["damage"] for found in rows.values()):
        console.print("Training refuses damaged shards; data.damaged_shards=substitute lets it use what is whole.")
    console.print(f"{len(pool):,} samples in {pool.shard_count:,} shards, {time.monotonic() - begin:.1f} s")
    _write(json, {"sources": rows, "samples": len(pool), "fingerprint": pool.fingerprint})
    return 0


def verify(
    config: Config,
    *,
    min_side: int | None = None,
    max_aspect: float | None = None,
    max_caption_bytes: int | None = None,
    quarantine: Path | None = None,
    sample: int | None = None,
    processes: int | None = None,
    json: Path | None = None,
) -> int:
    """Decode samples and show what fails; return 1 if something does, else 0."""
    if quarantine is not None and quarantine.exists():
        raise DataError(f"--quarantine {quarantine}: exists; name a new file, so that no line of the old one is lost")
    begin = time.monotonic()
    pool = _opened(config, processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    limits = verification.Limits(min_side, max_aspect, max_caption_bytes)
    with CountLine("verifying samples") as progress:
        numbers = spread(len(pool), sample or None)
        found = verification.verify(reader, numbers, limits, processes=_processes(processes), progress=progress)
    damage = {one.location: str(one.damage[0]) for manifest in pool.manifests for one in manifest.shards if one.damage}
    unusable = _sum(manifest.unusable for manifest in pool.manifests)
    _show_failures(found, damage, unusable, pool, time.monotonic() - begin)
    if quarantine is not None:
        with quarantine.open("x", encoding="utf-8") as file:
            file.writelines(json_line(one) for one in found.bad)
        _console().print(f"{len(found.bad):,} samples in {quarantine}; leave them out with: contrastive data index "
                         f"SHARDS --quarantine {quarantine}", soft_wrap=True, highlight=False)  # fmt: skip
    failures = [
        {"reason": one.reason, "samples": one.samples, "example": one.example._asdict()} for one in found.failures
    ]
    _write(
        json,
        {
            "samples": len(pool), "checked": found.checked, "bad": len(found.bad), "failures": failures,
            "shards": dict(found.shards), "damaged": damage, "not usable": unusable, "fingerprint": pool.fingerprint,
        },
    )  # fmt: skip
    return 1 if found.bad or damage else 0


def stats(
    config: Config,
    *,
    picture: Path | None = None,
    sample: int | None = None,
    processes: int | None = None,
    json: Path | None = None,
) -> int:
    """Say what samples are like; return 0."""
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise DataError(f"--picture {picture}: must end in {', '.join(PICTURES)}")
    pool = _opened(config, processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    with CountLine("looking at samples") as progress:
        numbers = spread(len(pool), sample or None)
        found = statistics.gather(reader, numbers, processes=_processes(processes), progress=progress)
    if not len(found):
        raise DataError(f"{_reasons(found.unreadable)}: no sample can be read; run contrastive data verify")
    quantiles = found.quantiles()
    grid = Table("", title=f"{len(found):,} of {len(pool):,} samples", title_justify="left")
    for heading in ("least", "1 %", "25 %", "median", "75 %", "99 %", "most", "mean"):
        grid.add_column(heading, justify="right")
    for name, values in quantiles.items():
        grid.add_row(name, *(f"{value:,.2f}" if name == "width / height" else f"{value:,.0f}" for value in values))
    console, facts = _console(), _facts(found)
    console.print(grid)
    for name, (count, share) in facts.items():
        console.print(f"{name}: {count:,} ({share:.2%})")
    for caption, count in found.most_repeated:
        console.print(f"  {count:,} times {caption[:80]!r}", markup=False)
    if found.unreadable:
        console.print(f"not readable: {_reasons(found.unreadable)}; contrastive data verify names them")
    if picture is not None:
        statistics.draw(found, picture, f"{len(found):,} samples")
        console.print(f"drawn in {picture}")
    names = ("least", "1%", "25%", "median", "75%", "99%", "most", "mean")
    _write(
        json,
        {
            "samples": len(pool), "looked_at": len(found), "unreadable": dict(found.unreadable),
            "image members": dict(found.members), "most repeated captions": found.most_repeated,
            "quantiles": {name: dict(zip(names, values, strict=True)) for name, values in quantiles.items()},
            **{name: count for name, (count, _) in facts.items()},
        },
    )  # fmt: skip
    return 0


def shuffle_report(
    config: Config,
    *,
    batch_size: int | None = None,
    seed: int | None = None,
    ranks: int = 8,
    workers: int = 4,
    json: Path | None = None,
) -> int:
    """Say how well batches mix; return 0."""
    pool, written = _opened(config, None), {}
    size, seed = batch_size or config.data.global_batch_size, config.train.seed if seed is None else seed
    console = _console()
    for spec, manifest in zip(pool.specs, pool.manifests, strict=True):
        source = Source(manifest.counts, spec.weight, *layout(config.data, manifest))
        content = sum(max(0, shard.bytes) for shard in manifest.shards) / max(1, sum(s.rows for s in manifest.shards))
        report = mixing_report(source, size, seed, sample_bytes=content, ranks=ranks, workers=workers)
        where = f"{spec.name}: " if spec.name else ""
        place = f"{source.lane_count} lanes" + ("" if source.window is None else f" x {source.window:,} samples")
        title = f"{where}batches of {size:,} from {len(manifest):,} samples in {len(manifest.shards):,} shards, {place}"
        grid = Table(
            "", "fair draw", "this order", f"open_clip, {ranks} x {workers}", title=title, title_justify="left"
        )
        columns = [_figures(report.independent), _figures(report.ours), _figures(report.open_clip)]
        for name, *cells in zip(MIXING, *columns, strict=True):
            grid.add_row(name, *cells)
        console.print(grid)
        console.print(f"{report.batches} batches of each of two epochs were looked at")
        if report.open_clip is None:
            console.print(f"open_clip does not run here: some of its {ranks} x {workers} readers would have no batch")
        for line in report.verdict or ("nothing to mend",):
            console.print(f"- {line}", highlight=False, soft_wrap=True)
        written[spec.name or "shards"] = asdict(report)
    _write(json, written)
    return 0


def bench(
    config: Config, *, seconds: float = 5.0, size: int = 224, workers: int | None = None, json: Path | None = None
) -> int:
    """Time what turns shards into batches; return 0."""
    pool = _opened(config, None)
    reader = Reader(pool, Storage(storage_options(config.data)), config.data.damaged_shards)
    crop = config.data.random_crop
    transform = TrainTransform(Preprocess(size), (crop[0], crop[1]) if crop else CROP, config.data.decode_scale)
    plan = Plan(pool.order(config.data, config.train.seed), config.train.seed, config.data.global_batch_size)
    rows = RankRows(reader, transform, Tokenizer(TokenizerSpec()), plan)
    found = benches.bench(rows, seconds, config.data.workers if workers is None else workers)
    total = sum(found.seconds.values())
    grid = Table(title=f"{found.samples:,} samples of {size} x {size} pixels, one core", title_justify="left")
    for heading in ("stage", "microseconds a sample", "share", "samples/s"):
        grid.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, spent in found.seconds.items():
        each = spent / found.samples
        grid.add_row(stage, f"{each * 1e6:,.0f}", f"{spent / total:.0%}", f"{1 / each:,.0f}" if each > 1e-9 else "-")
    each = total / found.samples
    grid.add_row("all", f"{each * 1e6:,.0f}", "100%", f"{1 / each:,.0f}", style="bold")
    console = _console()
    console.print(grid)
    if found.loader_samples_per_second is not None:
        console.print(f"{found.workers} loader processes on {os.cpu_count()} cores: "
                      f"{found.loader_samples_per_second:,.0f} samples/s")  # fmt: skip
    console.print(f"What limits is {found.advice}", soft_wrap=True)
    _write(json, {**asdict(found), "samples_per_second_and_core": found.per_core, "limit": found.limit})
    return 0


MIXING = (
    "shards in a batch",
    "neighbours meet, odds",
    "ten apart meet, odds",
    "classes scatter, if sorted (1 is chance)",
    "epoch to epoch correlation",
    "mean move of a sample",
    "largest move",
    "samples a sequential reader holds",
    "the same in GB",
)


def _figures(found: Mixing | None) -> list[str]:
    if found is None:
        return ["-"] * len(MIXING)
    size = "-" if found.buffered_bytes is None else f"{found.buffered_bytes / 1e9:.2f}"
    real = (found.shards_per_batch, found.next_odds, found.tenth_odds, found.class_chi2, found.epoch_correlation)
    whole = (found.mean_displacement, found.largest_displacement, found.buffered_samples)
    cells = [f"{value:.1f}" if value >= 100 else f"{value:.2f}" for value in real] + [f"{v:,.0f}" for v in whole]
    return ["-" if cell == "nan" else cell for cell in (*cells, size)]


def _open(config: Config, **options: Any) -> Pool:
    """Return the samples; what is whole of damaged shards, but no shard may be missing."""
    for spec in source_specs(config.data):
        expand(spec.shards, spec.setting, allow_pipes=config.data.allow_pipes)
    data = replace(config.data, damaged_shards="substitute")
    return open_pool(data, Storage(storage_options(config.data)), **options)


def _opened(config: Config, processes: int | None) -> Pool:
    with CountLine("indexing shards") as progress:
        return _open(config, processes=processes, progress=progress)


def _processes(asked: int | None) -> int:
    count = (os.cpu_count() or 1) if asked is None else asked
    return 0 if count == 1 else count


def _show_failures(
    found: verification.Verified, damage: Mapping[str, str], unusable: Mapping[str, int], pool: Pool, seconds: float
) -> None:
    console = _console()
    if found.bad:
        grid = Table("failure", title="Samples that cannot be used", title_justify="left")
        grid.add_column("samples", justify="right")
        grid.add_column("for example", overflow="fold")
        for failure in found.failures:
            grid.add_row(failure.reason, f"{failure.samples:,}", failure.example.message)
        console.print(grid)
        for location, count in found.shards[:WORST_SHARDS]:
            console.print(f"  {count:,} in {location}", soft_wrap=True, highlight=False)
    for location, said in damage.items():
        console.print(f"damaged: {location} {said}; what is whole was checked", soft_wrap=True, highlight=False)
    for reason, count in unusable.items():
        console.print(f"not counted as samples: {count:,} {reason}")
    share = len(found.bad) / max(1, found.checked)
    console.print(
        f"{found.checked:,} of {len(pool):,} samples in {pool.shard_count:,} shards checked, {len(found.bad):,} cannot "
        f"be used ({share:.3%}), {len(damage):,} damaged shards; {seconds:.1f} s",
        soft_wrap=True,
    )


def _facts(found: statistics.Stats) -> dict[str, tuple[int, float]]:
    """Return counts, and their share of the samples."""
    counts = {
        "images that occurred before": found.image_repeats,
        "captions that occurred before": found.caption_repeats,
        f"captions that fill {found.context_length} tokens and may be cut": found.cut_captions,
        **{f"images in {name}": count for name, count in found.members.most_common()},
    }
    return {name: (count, count / len(found)) for name, count in counts.items()}


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "\n".join(f"{_shown(v)} {k}" if isinstance(v, int) else f"{k}: {v[0]}" for k, v in value.items()) or "-"
    return str(value)


def _sum(counts: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return found


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=110)  # a file or a pipe has no width of its own


def _write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not a number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
