"""What samples that are written again come from, and how they are read then."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive.data.access import is_remote
from contrastive.data.pool import Pool
from contrastive.files import sha256
from contrastive.recipes.packing.workplace import PROVENANCE, provenance
from contrastive.settings import DataConfig

UNKNOWN = "image"  # the ending of what is no image that anybody knows
PACKED = ("jpg", "png", "webp", "gif", "bmp", "tif", "jp2", "avif", "ppm", UNKNOWN)  # images are named by their bytes


def inputs_of(pool: Pool) -> list[dict[str, Any]]:
    """Return what samples are made of, source by source, and what is known of how those were made."""
    return [
        {
            "source": spec.name,
            "shards": len(manifest.shards),
            "samples": len(manifest),
            "fingerprint": manifest.fingerprint,
            "made by": _made_by([shard.location for shard in manifest.shards]),
        }
        for spec, manifest in zip(pool.specs, pool.manifests, strict=True)
    ]


def reading_of(pool: Pool, data: DataConfig, out: Path) -> DataConfig:
    """Return settings that read what was written of a pool: its members in all their names."""
    images = dict.fromkeys(name for spec in pool.specs for name in (*spec.image, *PACKED))
    first = pool.specs[0].captions
    captions = dict(zip(first.keys, first.shares, strict=True))
    for spec in pool.specs[1:]:
        captions = {**dict.fromkeys(spec.captions.keys, 1.0), **captions}
    folders = sorted({str(path.parent) for path in out.rglob("*.tar")})
    return replace(
        data,
        train=folders,
        sources={},
        image_key=";".join(images),
        caption_key=captions,
        label_key=pool.specs[0].label_key,
        damaged_shards="fail",
    )


def _made_by(locations: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the folders of shards say of themselves, each once; splits lie below the folder that says it."""
    folders = dict.fromkeys(Path(location).parent for location in locations if not is_remote(location))
    known = dict.fromkeys(
        one for folder in folders for one in (folder, folder.absolute().parent) if provenance(one) is not None
    )
    return [{"sha256": sha256(one / PROVENANCE), "identity": (provenance(one) or {}).get("identity")} for one in known]
