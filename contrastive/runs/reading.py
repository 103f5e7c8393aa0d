"""`contrastive data shuffle-report` and `bench`: how training would read shards."""

import os
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from contrastive.data.order import Source
from contrastive.data.pool import layout, storage_options
from contrastive.data.rows import Plan, RankRows
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.modalities.image import Preprocess, TrainTransform
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.recipes import bench as benches
from contrastive.recipes.mixing import Mixing, mixing_report
from contrastive.runs.opening import console, open_shards, write_figures
from contrastive.settings import Config
from contrastive.train import task

CROP = (0.9, 1.0)  # of `bench`, where the run has none: open_clip's
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
    pool, written = open_shards(config), {}
    size, seed = batch_size or config.data.global_batch_size, config.train.seed if seed is None else seed
    out = console()
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
        out.print(grid)
        out.print(f"{report.batches} batches of each of two epochs were looked at")
        if report.open_clip is None:
            out.print(f"open_clip does not run here: some of its {ranks} x {workers} readers would have no batch")
        for line in report.verdict or ("nothing to mend",):
            out.print(f"- {line}", highlight=False, soft_wrap=True)
        written[spec.name or "shards"] = asdict(report)
    write_figures(json, written)
    return 0


def bench(
    config: Config, *, seconds: float = 5.0, size: int = 224, workers: int | None = None, json: Path | None = None
) -> int:
    """Time what turns shards into batches; return 0."""
    pool = open_shards(config)
    reader = Reader(pool, Storage(storage_options(config.data)), config.data.damaged_shards)
    crop = config.data.random_crop
    transform = TrainTransform(Preprocess(size), (crop[0], crop[1]) if crop else CROP, config.data.decode_scale)
    plan = Plan(pool.order(config.data, config.train.seed), config.train.seed, config.data.global_batch_size)
    image_ids = "image_id" in task.needs(config)
    rows = RankRows(reader, transform, Tokenizer(TokenizerSpec()), plan, image_ids=image_ids)
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
    out = console()
    out.print(grid)
    if found.loader_samples_per_second is not None:
        out.print(f"{found.workers} loader processes on {os.cpu_count()} cores: "
                      f"{found.loader_samples_per_second:,.0f} samples/s")  # fmt: skip
    out.print(f"What limits is {found.advice}", soft_wrap=True)
    write_figures(json, {**asdict(found), "samples_per_second_and_core": found.per_core, "limit": found.limit})
    return 0


def _figures(found: Mixing | None) -> list[str]:
    if found is None:
        return ["-"] * len(MIXING)
    size = "-" if found.buffered_bytes is None else f"{found.buffered_bytes / 1e9:.2f}"
    real = (found.shards_per_batch, found.next_odds, found.tenth_odds, found.class_chi2, found.epoch_correlation)
    whole = (found.mean_displacement, found.largest_displacement, found.buffered_samples)
    cells = [f"{value:.1f}" if value >= 100 else f"{value:.2f}" for value in real] + [f"{v:,.0f}" for v in whole]
    return ["-" if cell == "nan" else cell for cell in (*cells, size)]
