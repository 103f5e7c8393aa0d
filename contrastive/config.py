"""From YAML files and dotted overrides to the settings of a run. The only user of OmegaConf."""

import dataclasses
import importlib.resources
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from contrastive.errors import ConfigError
from contrastive.registry import suggest
from contrastive.settings import Config

SECTIONS = tuple(f.name for f in dataclasses.fields(Config))


def load(files: Sequence[str], overrides: Sequence[str] = ()) -> Config:
    """Return the run that YAML files and `key=value` overrides describe; what comes later wins.

    Raises:
        ConfigError: a file is missing or is no YAML mapping; a key is unknown; a value has a wrong type or range.
    """
    merged = OmegaConf.structured(Config)
    for name in files:
        content = read_yaml(name)
        if isinstance(content.get("data"), dict) and content["data"].get("allow_pipes"):
            rule = "lets shards run shell commands; write data.allow_pipes=true on the command line instead"
            raise ConfigError(f"data.allow_pipes: {name} {rule}")
        merged = _merge(merged, content, name)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{override!r}: overrides are key=value, files end in .yaml")
        merged = _merge(merged, _parse_override(override), "command line")
    config = cast(Config, OmegaConf.to_object(merged))
    for key, value, spec in _leaves(config):
        _check_range(key, value, spec.metadata)
    return config


def read_yaml(name: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, found as given or among the configs that the package ships.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    path = Path(name)
    if not path.is_file():
        package = Path(str(importlib.resources.files("contrastive")))
        folders = (package / "configs", package.parent / "configs")  # of an installed package, and of a checkout
        shipped = [folder / str(name).removeprefix("configs/") for folder in folders]
        path = next((file for file in shipped if file.is_file()), path)
        if not path.is_file():
            raise ConfigError(f"{name}: no such file, and no configuration of that name is shipped")
    try:
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(path.read_text())), resolve=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {_one_line(error)}") from error
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    return cast(dict[str, Any], content)


def to_yaml(config: Config) -> str:
    """Return the YAML of a resolved run, itself a valid file: what only a command line may say is left out."""
    content = to_dict(config)
    del content["data"]["allow_pipes"], content["run"]["resume"], content["run"]["accept_changes"]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def to_dict(config: Config) -> dict[str, Any]:
    """Return a resolved run as plain mappings, lists and numbers."""
    return dataclasses.asdict(config)


def describe() -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, meaning with unit) for everything a run can be told."""
    for key, value, spec in _leaves(Config()):
        unit = f" [{spec.metadata['unit']}]" if spec.metadata["unit"] else ""
        yield key, value, spec.metadata["help"] + unit


def _parse_override(override: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([override])))
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML; quote it: {_one_line(error)}") from error


def _merge(base: Any, update: dict[str, Any], source: str) -> Any:
    for key, value in update.items():
        if key in SECTIONS and not isinstance(value, dict) and not (key == "losses" and value is None):
            raise ConfigError(f"{key}: {value!r} must be a mapping of keys to values ({source})")
    try:
        _clear(base, update)
        return OmegaConf.merge(base, update)
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{key}: {_explain(error, key)} ({source})") from error


def _clear(base: Any, update: dict[str, Any]) -> None:
    """Empty the part mappings that `update` sets to null: merging alone could only ever add to them."""
    for key, value in list(update.items()):
        if value is None and isinstance(base.get(key), DictConfig):
            with flag_override(base, "readonly", False):  # frozen dataclasses are read-only nodes
                base[key] = {}
            del update[key]
        elif isinstance(value, dict) and isinstance(base.get(key), DictConfig):
            _clear(base[key], value)


def _explain(error: OmegaConfBaseException, key: str) -> str:
    message = _one_line(error)
    if message.startswith("Cannot convert 'DictConfig' to string"):
        return "must be a text; quote a value that begins with a brace"  # {000..003} is a mapping to YAML
    if type(error).__name__ not in ("ConfigKeyError", "ConfigAttributeError"):
        return message
    known = list(dict.fromkeys([*SECTIONS, *(name for name, _, _ in describe())]))
    parent = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    return f"unknown key{suggest(key, siblings or known)}"


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(said) or type(error).__name__


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    for spec in dataclasses.fields(section):
        value = getattr(section, spec.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name, value, spec


def _check_range(key: str, value: Any, metadata: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    low, high = metadata["at_least"], metadata["at_most"]
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        bounds = " and ".join(
            f"at {word} {bound}" for word, bound in (("least", low), ("most", high)) if bound is not None
        )
        raise ConfigError(f"{key}: {value} must be {bounds or 'finite'}")
