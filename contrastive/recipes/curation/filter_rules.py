"""The filters that a user asks for: rules of a file, and presets."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from contrastive.data.pool import Pool
from contrastive.errors import ConfigError
from contrastive.files import sha256
from contrastive.recipes.curation.filtering import Judge
from contrastive.registry import FILTERS, bind, build, suggest

# Gadre et al. 2023, "DataComp", https://arxiv.org/abs/2304.14108, appendix on baselines, "basic filtering". Captions
# come first: an image's header costs reading its bytes.
PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "datacomp-basic": (
        {"name": "caption_length", "min_words": 3, "min_characters": 6},
        {"name": "language", "keep": ["en"]},
        {"name": "resolution", "min_side": 200},
        {"name": "aspect", "max": 3.0},
    )
}
PRESET_NOTES = {
    "datacomp-basic": "DataComp tells the language by fastText; here py3langid does, so that counts differ."
}


class Rule(NamedTuple):
    """A filter's name and options, and how messages name it."""

    key: str
    spec: Mapping[str, Any]


def preset(name: str) -> list[Rule]:
    """Return the rules of a preset.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset: {name!r} is not one of {', '.join(PRESETS)}{suggest(name, PRESETS)}")
    return [Rule(f"{name}[{at}]", spec) for at, spec in enumerate(PRESETS[name])]


def read_rules(path: Path) -> list[Rule]:
    """Return the rules of a YAML file: a list of `{name: FILTER, **options}`.

    Raises:
        ConfigError: it cannot be read, or is no such list.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ConfigError(f"--rules {path}: cannot be read: {why}") from None
    if not isinstance(content, list) or not content or not all(isinstance(one, Mapping) for one in content):
        raise ConfigError(f"--rules {path}: must be a list of filters, as in '- {{name: resolution, min_side: 200}}'")
    return [
        Rule(f"{path.name}[{at}]", {str(key): value for key, value in one.items()}) for at, one in enumerate(content)
    ]


def check_rules(rules: Sequence[Rule]) -> None:
    """Refuse rules that are wrong in themselves, before any shard is opened.

    Raises:
        ConfigError: there are none, or one names an unknown filter or option, or a value of a wrong type.
    """
    if not rules:
        raise ConfigError(
            "filter: no rule; give --preset, --rules or some of the flags (contrastive data filter --help)"
        )
    for rule in rules:
        bind(FILTERS, rule.spec, rule.key, pool=None)


def build_judge(rules: Sequence[Rule], pool: Pool) -> Judge:
    """Return the judge that asks the filters of the rules in their order.

    Raises:
        ConfigError, DataError: a filter refused its options, or a file that it reads.
    """
    return Judge(tuple(build(FILTERS, rule.spec, rule.key, pool=pool) for rule in rules))


def digests(rules: Sequence[Rule]) -> dict[str, str]:
    """Return the SHA-256 of every file that the options of the rules name."""
    return {path: sha256(Path(path)) for rule in rules for path in _files(rule.spec)}


def _files(spec: Mapping[str, Any]) -> Iterator[str]:
    for name, value in spec.items():
        if name != "name" and isinstance(value, str) and Path(value).is_file():
            yield value
