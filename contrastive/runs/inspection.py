"""`contrastive data index`, `verify` and `stats`: what shards hold."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from contrastive.data.pool import Pool, storage_options
from contrastive.data.quarantine import json_line
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.recipes import stats as statistics
from contrastive.recipes import verify as verification
from contrastive.recipes.looking import spread
from contrastive.runs.opening import console, open_shards, reading_processes, write_figures
from contrastive.settings import Config
from contrastive.tracking import CountLine

WORST_SHARDS = 5
PICTURES = (".png", ".svg", ".pdf")
COLUMNS = ("least", "1 %", "25 %", "median", "75 %", "99 %", "most", "mean")


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
    pool = open_shards(
        config,
        processes=processes,
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
    out = console()
    for name, found in rows.items():
        grid = Table("", "", title=name, show_header=False, title_justify="left")
        for key, value in found.items():
            grid.add_row(key, _shown(value))
        out.print(grid)
    if any(found["damage"] for found in rows.values()):
        out.print("Training refuses damaged shards; data.damaged_shards=substitute lets it use what is whole.")
    out.print(f"{len(pool):,} samples in {pool.shard_count:,} shards, {time.monotonic() - begin:.1f} s")
    write_figures(json, {"sources": rows, "samples": len(pool), "fingerprint": pool.fingerprint})
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
    pool = open_shards(config, processes=processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    limits = verification.Limits(min_side, max_aspect, max_caption_bytes)
    with CountLine("verifying samples") as progress:
        numbers = spread(len(pool), sample or None)
        found = verification.verify(reader, numbers, limits, processes=reading_processes(processes), progress=progress)
    damage = {one.location: str(one.damage[0]) for manifest in pool.manifests for one in manifest.shards if one.damage}
    unusable = _sum(manifest.unusable for manifest in pool.manifests)
    _show_failures(found, damage, unusable, pool, time.monotonic() - begin)
    if quarantine is not None:
        with quarantine.open("x", encoding="utf-8") as file:
            file.writelines(json_line(one) for one in found.bad)
        console().print(f"{len(found.bad):,} samples in {quarantine}; leave them out with: contrastive data index "
                         f"SHARDS --quarantine {quarantine}", soft_wrap=True, highlight=False)  # fmt: skip
    failures = [
        {"reason": one.reason, "samples": one.samples, "example": one.example._asdict()} for one in found.failures
    ]
    write_figures(
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
    pool = open_shards(config, processes=processes)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    with CountLine("looking at samples") as progress:
        numbers = spread(len(pool), sample or None)
        found = statistics.gather(reader, numbers, processes=reading_processes(processes), progress=progress)
    if not len(found):
        raise DataError(f"{_reasons(found.unreadable)}: no sample can be read; run contrastive data verify")
    quantiles = found.quantiles()
    grid = Table("", title=f"{len(found):,} of {len(pool):,} samples", title_justify="left")
    for heading in COLUMNS:
        grid.add_column(heading, justify="right")
    for name, values in quantiles.items():
        grid.add_row(name, *(f"{value:,.2f}" if name == "width / height" else f"{value:,.0f}" for value in values))
    out, facts = console(), _facts(found)
    out.print(grid)
    for name, (count, share) in facts.items():
        out.print(f"{name}: {count:,} ({share:.2%})")
    for caption, count in found.most_repeated:
        out.print(f"  {count:,} times {caption[:80]!r}", markup=False)
    if found.unreadable:
        out.print(f"not readable: {_reasons(found.unreadable)}; contrastive data verify names them")
    if picture is not None:
        statistics.draw(found, picture, f"{len(found):,} samples")
        out.print(f"drawn in {picture}")
    write_figures(
        json,
        {
            "samples": len(pool), "looked_at": len(found), "unreadable": dict(found.unreadable),
            "image members": dict(found.members), "most repeated captions": found.most_repeated,
            "quantiles": {name: dict(zip(COLUMNS, values, strict=True)) for name, values in quantiles.items()},
            **{name: count for name, (count, _) in facts.items()},
        },
    )  # fmt: skip
    return 0


def _show_failures(
    found: verification.Verified, damage: Mapping[str, str], unusable: Mapping[str, int], pool: Pool, seconds: float
) -> None:
    out = console()
    if found.bad:
        grid = Table("failure", title="Samples that cannot be used", title_justify="left")
        grid.add_column("samples", justify="right")
        grid.add_column("for example", overflow="fold")
        for failure in found.failures:
            grid.add_row(failure.reason, f"{failure.samples:,}", failure.example.message)
        out.print(grid)
        for location, count in found.shards[:WORST_SHARDS]:
            out.print(f"  {count:,} in {location}", soft_wrap=True, highlight=False)
    for location, said in damage.items():
        out.print(f"damaged: {location} {said}; what is whole was checked", soft_wrap=True, highlight=False)
    for reason, count in unusable.items():
        out.print(f"not counted as samples: {count:,} {reason}")
    share = len(found.bad) / max(1, found.checked)
    out.print(
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


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return found
