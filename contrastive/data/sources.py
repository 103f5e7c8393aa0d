"""What a run is told about the sources of its samples: `data.train` for one, `data.sources` for a mixture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contrastive.data.captions import CaptionChoice
from contrastive.data.index import Selection
from contrastive.errors import ConfigError
from contrastive.registry import convert, suggest
from contrastive.settings import DataConfig

SOURCE_KEYS = ("shards", "weight", "image_key", "caption_key", "label_key")


@dataclass(frozen=True)
class SourceSpec:
    """One source: its shards (see `contrastive.data.places`), how often an epoch shows each sample, and its members."""

    name: str
    shards: str | tuple[str, ...]
    weight: float
    image: tuple[str, ...]
    captions: CaptionChoice
    label_key: str | None = None

    @property
    def setting(self) -> str:
        """The key of the configuration that names the shards, for messages."""
        return f"data.sources.{self.name}.shards" if self.name else "data.train"

    @property
    def selection(self) -> Selection:
        """The members that make a sample of this source."""
        label = None if self.label_key is None else self.label_key.partition(".")[0]
        return Selection(self.image, self.captions.members, label)


def source_specs(config: DataConfig) -> tuple[SourceSpec, ...]:
    """Return the sources of a run; what one of several does not say, `data.*` says for all.

    Raises:
        ConfigError: none or both of data.train and data.sources, an unknown key, a weight that is not above 0, or
            sources of which only some have a label_key.
    """
    if config.sources and config.train:
        raise ConfigError("data.sources: stands beside data.train; make data.train one of the sources, or leave it out")
    if not config.sources:
        return (_spec("", {"shards": config.train}, config),)
    specs = tuple(_spec(str(name), value, config) for name, value in config.sources.items())
    if len({spec.label_key is None for spec in specs}) > 1:
        without = next(spec.name for spec in specs if spec.label_key is None)
        raise ConfigError(
            f"data.sources.{without}.label_key: unset, and another source has one; set it for all or none"
        )
    return specs


def _spec(name: str, given: Any, config: DataConfig) -> SourceSpec:
    where = f"data.sources.{name}"
    if isinstance(given, str):
        given = {"shards": given}
    if not isinstance(given, Mapping) or "shards" not in given:
        raise ConfigError(f"{where}: {given!r} must be a mapping like {{shards: /data/cc3m, weight: 1.0}}")
    for key in given:
        if key not in SOURCE_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), SOURCE_KEYS)}")
    merged = {"weight": 1.0, **{key: getattr(config, key) for key in SOURCE_KEYS[2:]}, **given}
    weight = convert(merged["weight"], float, f"{where}.weight")
    if not (math.isfinite(weight) and weight > 0):
        raise ConfigError(f"{where}.weight: {weight} must be more than 0, how often an epoch shows each sample")
    image = tuple(part.strip().lower() for part in str(merged["image_key"]).split(";") if part.strip())
    if not image:
        raise ConfigError(f"{where if name else 'data'}.image_key: names no member; give jpg, or several joined by ;")
    captions = CaptionChoice.parse(merged["caption_key"], f"{where if name else 'data'}.caption_key")
    label = None if merged["label_key"] is None else str(merged["label_key"])
    return SourceSpec(name, _shards(merged["shards"], where if name else "data.train"), weight, image, captions, label)


def _shards(value: Any, setting: str) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ConfigError(f"{setting}: {value!r} must be a text or a list of texts; quote a value that begins with a brace")
