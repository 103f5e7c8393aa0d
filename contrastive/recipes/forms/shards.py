"""Shards that others wrote: any webdataset tars, img2dataset's among them. Members are copied byte for byte."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import escape, glob
from typing import Any

from contrastive.data.captions import texts
from contrastive.data.index import EMPTY
from contrastive.data.places import expand
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.shards import Manifest, Row, Shard
from contrastive.data.sources import SourceSpec
from contrastive.data.storage import ReadError, Storage
from contrastive.errors import DataError
from contrastive.recipes.forms.cells import BadRowError, shown
from contrastive.recipes.records import Record, Rejected, Span
from contrastive.settings import DataConfig

log = logging.getLogger("contrastive")
SUCCESS = "success"  # img2dataset's word


@dataclass(frozen=True)
class Shards:
    """Tars by path, folder, glob, brace pattern or URL, as data.train takes them; what img2dataset wrote is told.

    `image_key` and `caption_key` are the members that hold image and captions, as data.image_key and data.caption_key
    say them. With `check` every caption and every json is read: samples whose captions are empty, or whose download
    failed, are rejected; it reads shards behind a network twice. `shard_in_key` puts the shard's name before each key,
    where several shards number their samples alike. `allow_pipes` lets `pipe:` commands run.
    """

    source: str
    image_key: str = "jpg;jpeg;png;webp"
    caption_key: Any = "txt"
    check: bool = True
    shard_in_key: bool = False
    allow_pipes: bool = False

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every sample in the order of the shards, and each damaged shard before what is whole of it."""
        config = DataConfig(
            train=self.source,
            image_key=self.image_key,
            caption_key=self.caption_key,
            damaged_shards="substitute",
            allow_pipes=self.allow_pipes,
        )
        storage = Storage(storage_options(config))
        expand(self.source, "--from shards", allow_pipes=self.allow_pipes)  # a shard that is missing is no damaged one
        pool = open_pool(config, storage)
        _tell_failures(self.source)
        for spec, manifest in zip(pool.specs, pool.manifests, strict=True):
            for place, shard in enumerate(manifest.shards):
                prefix = f"{_name(shard.location)}/" if self.shard_in_key else ""
                if shard.damage:
                    yield _damaged(shard)
                for row in manifest.rows(place):
                    try:
                        _require_usable(spec, manifest, row)
                        if self.check:
                            _require_content(spec, shard, row, storage)
                    except BadRowError as bad:
                        yield bad.at(f"{shard.location}:{row.key}", prefix + row.key)
                    else:
                        yield _record(spec, shard, row, prefix)


def pool_records(
    pool: Pool, storage: Storage, numbers: Iterable[int] | None = None, prefix: str = ""
) -> Iterator[Record]:
    """Yield samples of a pool, by default all, as records whose members are copied byte for byte.

    Captions are among the members, and so `captions` is empty. `prefix` is put before every key.

    Raises:
        DataError: a shard is not the one that was indexed.
    """
    known: set[str] = set()
    for number in range(len(pool)) if numbers is None else numbers:
        found = pool.find(number)
        shard = found.manifest.shards[found.row.shard]
        if shard.location not in known:  # told before anything is written
            _require_same(shard, storage)
            known.add(shard.location)
        yield _record(found.source, shard, found.row, prefix)


def _record(spec: SourceSpec, shard: Shard, row: Row, prefix: str) -> Record:
    spans = {name: Span(shard.location, *place, shard.bytes) for name, place in row.members.items()}
    image = spans.pop(next(name for name in spec.image if name in spans))
    return Record(prefix + row.key, image, (), f"{shard.location}:{row.key}", members=spans)


def _require_same(shard: Shard, storage: Storage) -> None:
    size = storage.stat(shard.location).size
    if size >= 0 and shard.bytes >= 0 and size != shard.bytes:
        rule = "run contrastive data index again"
        raise DataError(f"{shard.location}: has {size:,} bytes, its index says {shard.bytes:,}; {rule}")


def _require_usable(spec: SourceSpec, manifest: Manifest, row: Row) -> None:
    """Refuse a row that lacks a member, or that a quarantine names."""
    if row.row in manifest.shards[row.shard].skipped:
        raise BadRowError("quarantined", "is quarantined in the index of its shard")
    held, empty = set(row.members), _empty(manifest, row)
    lacks = spec.selection.lacks(tuple(sorted(held | {EMPTY + name for name in empty})))
    if lacks is not None:
        what = "image" if held.isdisjoint(spec.image) else "caption"
        wanted = spec.image if what == "image" else spec.captions.members
        if not empty.isdisjoint(wanted):
            raise BadRowError(f"{what}: empty", f"its {what} has no bytes")
        rule = f"has no member {' or '.join(wanted)} but {', '.join(sorted(held)) or 'nothing'}"
        raise BadRowError(f"{what}: missing", rule)
    if "json" in empty:
        raise BadRowError("json: empty", "its json member has no bytes")


def _empty(manifest: Manifest, row: Row) -> set[str]:
    """Return the members of a row that have no bytes."""
    table = manifest.rows_of(row.shard)
    return {name for name in (table.dtype.names or ())[1:] if int(table[name][row.row][1]) == 0}


def _require_content(spec: SourceSpec, shard: Shard, row: Row, storage: Storage) -> None:
    """Refuse a row without a caption, or one that was not downloaded."""
    content = {}
    try:
        for name in dict.fromkeys((*spec.captions.members, "json")):
            if name in row.members:
                content[name] = storage.read(shard.location, *row.members[name], shard.bytes)
    except ReadError as error:
        raise BadRowError(f"shard: {error.reason}", f"cannot be read: {error}") from None
    if "json" in content:
        _require_success(content["json"])
    lacking = ""
    for key in spec.captions.keys:
        try:
            if texts(content.get(key.partition(".")[0], b""), key):
                return
        except ValueError as error:
            lacking = str(error)
    raise BadRowError("caption: missing", lacking) if lacking else BadRowError("caption: empty", "its caption is empty")


def _require_success(content: bytes) -> None:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        raise BadRowError("json: damaged", f"its json member {shown(content)} is no JSON") from None
    status = said.get("status", SUCCESS) if isinstance(said, dict) else SUCCESS
    if status != SUCCESS:
        why = f" ({said['error_message']})" if said.get("error_message") else ""
        raise BadRowError("download: failed", f"its json says status {shown(status)}{why}")


def _damaged(shard: Shard) -> Rejected:
    places = "; ".join(str(one) for one in shard.damage[:3])
    more = f" and {len(shard.damage) - 3} places more" if len(shard.damage) > 3 else ""
    kept = f"{shard.rows:,} samples that are whole are used" if shard.rows else "nothing of it can be used"
    message = f"{shard.location}: {places}{more}; {kept}, write or copy it again for the rest"
    return Rejected(shard.location, "", "shard: damaged", message)


def _name(location: str) -> str:
    """Return a shard's name without its endings."""
    return location.partition("?")[0].rpartition("/")[2].partition(".")[0]


def _tell_failures(source: str) -> None:
    """Log how many images img2dataset did not get: they are in no tar, so that nothing else tells."""
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    count = wanted = 0
    for path in sorted(glob(os.path.join(escape(folder), "*_stats.json"))):
        try:
            with open(path, encoding="utf-8") as file:
                said = json.load(file)
            count, wanted = count + said["count"] - said["successes"], wanted + said["count"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # somebody else's file
    if wanted:
        log.info("%s: img2dataset failed to get %d of %d images; its .parquet files say why", source, count, wanted)
