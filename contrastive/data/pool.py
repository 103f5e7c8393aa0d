"""One numbering over the samples of all sources: number n of the pool is a row of a shard of a source."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrastive.data.order import Order, Source
from contrastive.data.places import expand
from contrastive.data.shards import Manifest, Row, open_manifest
from contrastive.data.sources import SourceSpec, source_specs
from contrastive.data.state import StreamState
from contrastive.data.storage import Storage, StorageOptions, is_remote
from contrastive.settings import DataConfig

LANES, WINDOW = 128, 4096  # of shards behind a network: see docs/data.md


class Found(NamedTuple):
    """Where one sample lies."""

    source: SourceSpec
    manifest: Manifest
    row: Row

    @property
    def location(self) -> str:
        """The shard's path or address."""
        return self.manifest.shards[self.row.shard].location

    @property
    def where(self) -> str:
        """`shard:key`, for messages."""
        return f"{self.location}:{self.row.key}"


@dataclass(frozen=True)
class Pool:
    """The sources of a run with their manifests, in the order of the configuration."""

    specs: tuple[SourceSpec, ...]
    manifests: tuple[Manifest, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number of each source's first sample, and the number of all, int64 [K + 1]."""
        return np.concatenate([[0], np.cumsum([len(manifest) for manifest in self.manifests])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shard_count(self) -> int:
        """How many shards there are in all."""
        return sum(len(manifest.shards) for manifest in self.manifests)

    @property
    def unusable(self) -> int:
        """Samples that lack an image or a caption, or are quarantined."""
        return sum(sum(manifest.unusable.values()) for manifest in self.manifests)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that decides which sample a number stands for; paths and times are no part of it."""
        content = repr([manifest.fingerprint for manifest in self.manifests])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def find(self, number: int) -> Found:
        """Return where sample `number` lies."""
        source = self.source_of(number)
        row = self.manifests[source].row(number - int(self.starts[source]))
        return Found(self.specs[source], self.manifests[source], row)

    def source_of(self, number: int) -> int:
        """Return which source sample `number` belongs to."""
        if len(self.specs) == 1:
            return 0
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def span(self, number: int) -> tuple[int, int]:
        """Return the first number of the source that `number` belongs to, and how many samples that source has."""
        source = self.source_of(number)
        return int(self.starts[source]), len(self.manifests[source])

    def order(self, config: DataConfig, seed: int) -> Order:
        """Return the order in which training reads the pool; see `contrastive.data.order`."""
        sources = [
            Source(manifest.counts, spec.weight, *layout(config, manifest))
            for spec, manifest in zip(self.specs, self.manifests, strict=True)
        ]
        return Order(sources, seed, config.replacement)

    def state(self, config: DataConfig, seed: int, consumed: int = 0) -> StreamState:
        """Return what says how far a run with these settings has read."""
        layouts = [layout(config, manifest) for manifest in self.manifests]
        return StreamState(
            consumed=consumed,
            fingerprint=self.fingerprint,
            seed=seed,
            lanes=tuple(lanes for lanes, _ in layouts),
            window=tuple(window for _, window in layouts),
            replacement=config.replacement,
            weights=tuple(str(spec.weight) for spec in self.specs),
        )


def layout(config: DataConfig, manifest: Manifest) -> tuple[int, int | None]:
    """Return lanes and window of a source: as they are set, else by whether random reads of its shards are cheap."""
    remote = any(is_remote(shard.location) for shard in manifest.shards)
    lanes = min(LANES, max(1, len(manifest.shards) // 4)) if remote else 1
    window = WINDOW if remote else None
    return config.lanes or lanes, config.window or window


def storage_options(config: DataConfig) -> StorageOptions:
    """Return how the shards of a run are read."""
    return StorageOptions(
        cache=None if config.cache is None else Path(config.cache),
        cache_bytes=int(config.cache_gigabytes * 1e9),
        memory_bytes=int(config.memory_gigabytes * 1e9),
        retries=config.retries,
        stall_seconds=config.stall_seconds,
    )


def open_pool(
    config: DataConfig,
    storage: Storage,
    progress: Callable[[int, int], None] | None = None,
    *,
    processes: int | None = None,
    quarantine: Sequence[Path] = (),
    refresh: bool = False,
    forget_quarantine: bool = False,
) -> Pool:
    """Return the samples that a run's settings name, indexed; see `open_manifest`.

    Raises:
        ConfigError: the settings of the sources are wrong.
        DataError: shards are missing or damaged, or hold no usable sample.
    """
    specs = source_specs(config)
    on_damage: Literal["fail", "salvage"] = "salvage" if config.damaged_shards == "substitute" else "fail"
    manifests = []
    for spec in specs:
        locations = expand(
            spec.shards, spec.setting, allow_pipes=config.allow_pipes, skip_missing=on_damage == "salvage"
        )
        manifests.append(
            open_manifest(
                locations,
                spec.selection,
                storage,
                on_damage=on_damage,
                processes=processes,
                progress=progress,
                quarantine=quarantine,
                refresh=refresh,
                forget_quarantine=forget_quarantine,
            )
        )
    return Pool(specs, tuple(manifests))
