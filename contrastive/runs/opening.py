"""What the commands of `contrastive data` begin and end with: opened shards, a console, figures as JSON."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from contrastive import config as configuration_files
from contrastive.data.places import expand
from contrastive.data.pool import Pool, open_pool, storage_options
from contrastive.data.sources import source_specs
from contrastive.data.storage import Storage
from contrastive.errors import ConfigError
from contrastive.settings import Config
from contrastive.tracking import CountLine


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


def open_shards(config: Config, **options: Any) -> Pool:
    """Return the samples; what is whole of damaged shards, but no shard may be missing. `options`: see `open_pool`."""
    for spec in source_specs(config.data):
        expand(spec.shards, spec.setting, allow_pipes=config.data.allow_pipes)
    data = replace(config.data, damaged_shards="substitute")
    with CountLine("indexing shards") as progress:
        return open_pool(data, Storage(storage_options(config.data)), progress, **options)


def reading_processes(asked: int | None) -> int:
    """Return how many other processes read, where a user asked for so many in all; one for each core by default."""
    count = (os.cpu_count() or 1) if asked is None else asked
    return 0 if count == 1 else count


def console() -> Console:
    """Return where tables go."""
    return Console() if sys.stdout.isatty() else Console(width=110)  # a file or a pipe has no width of its own


def write_figures(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write what a command found as JSON, where a user asked for it."""
    if path is not None:
        path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not a number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
