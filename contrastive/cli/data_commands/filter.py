"""Choose samples by size, caption, language, words, scores or any column.

Each sample is judged by the rules in order: those of the preset, of the flags, then of the file. DIR/verdicts.parquet
says of every sample whether it is kept, why not, and its scores; DIR/report.html shows counts and examples.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive.cli.words import add_engine, add_out, add_shards, configuration, parsed, positive, share
from contrastive.errors import ConfigError

EPILOG = """A file of rules is a YAML list of filters and their options:

  - {name: resolution, min_side: 200}
  - {name: words, drop: blocked.txt}
  - {name: column, file: scores.parquet, column: punsafe, max: 0.5}
  - {name: my_package.rules:MyFilter, strength: 3}

filters: resolution, aspect, caption_length, language, words, text_overlap, clip_score, column, or package.module:Class

  contrastive data filter /data/shards --preset datacomp-basic --out kept
  contrastive data filter /data/shards --min-side 200 --language en --sample 5000 --out try
  contrastive data filter /data/shards --clip-score scores/scores.parquet --top 0.3 --out kept
  contrastive data filter /data/shards --column json.punsafe --max 0.5 --rules rules.yaml --out kept
"""
# The filter of each flag, and its option; rules come in this order.
FLAGS = {
    "min_words": ("caption_length", "min_words"),
    "max_words": ("caption_length", "max_words"),
    "min_characters": ("caption_length", "min_characters"),
    "max_characters": ("caption_length", "max_characters"),
    "keep_words": ("words", "keep"),
    "drop_words": ("words", "drop"),
    "min_side": ("resolution", "min_side"),
    "max_side": ("resolution", "max_side"),
    "max_aspect": ("aspect", "max"),
    "language": ("language", "keep"),
    "min_language_probability": ("language", "min_probability"),
    "clip_score": ("clip_score", "scores"),
    "min_clip_score": ("clip_score", "min"),
    "top": ("clip_score", "top"),
    "column": ("column", "column"),
    "min": ("column", "min"),
    "max": ("column", "max"),
    "equals": ("column", "equals"),
}
# A flag that says nothing without the other.
NEEDED = {
    "min_language_probability": "language",
    "min_clip_score": "clip_score",
    "top": "clip_score",
    "min": "column",
    "max": "column",
    "equals": "column",
}


def run(words: Sequence[str]) -> int:
    """Run `contrastive data filter WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.recipes.curation import filter_rules  # heavy: torch; not for --help
    from contrastive.runs.filtering import filter_shards

    names, file = options["preset"], options["rules"]
    rules = [rule for name in names for rule in filter_rules.preset(name)]
    rules += [filter_rules.Rule(key, spec) for key, spec in _flagged(options)]
    rules += filter_rules.read_rules(file) if file is not None else []
    return filter_shards(
        configuration(options["shards"], settings),
        rules,
        options["out"],
        sample=options["sample"],
        processes=options["processes"],
        engine=options["engine"],
        notes=[filter_rules.PRESET_NOTES[name] for name in names],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data filter",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    add_out(parser, "a new folder for verdicts and report")
    parser.add_argument("--preset", action="append", default=[], metavar="NAME", help="datacomp-basic")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="YAML; see below")
    captions = parser.add_argument_group("captions (of several, one that passes is enough)")
    captions.add_argument("--min-words", type=positive, metavar="N")
    captions.add_argument("--max-words", type=positive, metavar="N")
    captions.add_argument("--min-characters", type=positive, metavar="N")
    captions.add_argument("--max-characters", type=positive, metavar="N")
    captions.add_argument("--keep-words", metavar="FILE", help="keep captions with one of these phrases")
    captions.add_argument("--drop-words", metavar="FILE", help="drop captions with one of these phrases")
    captions.add_argument("--language", action="append", metavar="CODE", help="keep it; may be given several times")
    captions.add_argument("--min-language-probability", type=share, metavar="P")
    images = parser.add_argument_group("images (from their headers)")
    images.add_argument("--min-side", type=positive, metavar="PIXELS", help="of the shorter side")
    images.add_argument("--max-side", type=positive, metavar="PIXELS", help="of the longer side")
    images.add_argument("--max-aspect", type=float, metavar="RATIO", help="of the longer side to the shorter")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--clip-score", metavar="FILE", help="scores.parquet of contrastive data embed")
    scores.add_argument("--min-clip-score", type=float, metavar="COSINE")
    scores.add_argument("--top", type=share, metavar="SHARE", help="keep the best share by --clip-score")
    scores.add_argument("--column", metavar="FILE:NAME", help="of a Parquet or CSV file; or json.FIELD of the samples")
    scores.add_argument("--min", type=float, metavar="VALUE", help="of --column")
    scores.add_argument("--max", type=float, metavar="VALUE", help="of --column")
    scores.add_argument("--equals", metavar="VALUE", help="of --column")
    parser.add_argument("--sample", type=positive, metavar="N", help="try it on N samples, for the report alone")
    add_engine(parser)
    return parser


def _flagged(options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return how messages name it, and the spec, of each filter that flags ask for.

    Raises:
        ConfigError: a flag lacks the other that it needs.
    """
    specs: dict[str, tuple[str, dict[str, Any]]] = {}
    for flag, (name, option) in FLAGS.items():
        value = options[flag]
        if value is None:
            continue
        needed = NEEDED.get(flag)
        if needed is not None and options[needed] is None:
            raise ConfigError(f"{_spelled(flag)}: says nothing without {_spelled(needed)}; give both")
        _, spec = specs.setdefault(name, (_spelled(needed or flag), {"name": name}))
        spec.update(_column(value) if flag == "column" else {option: _value(flag, value)})
    return list(specs.values())


def _column(value: str) -> dict[str, str]:
    file, _, name = value.rpartition(":")
    if not name or not (file or name.startswith("json.")):
        raise ConfigError(f"--column {value}: must be FILE:NAME, or json.FIELD of the samples")
    return {"file": file, "column": name} if file else {"column": name}


def _value(flag: str, value: Any) -> Any:
    if flag != "equals":
        return value
    import yaml  # reads true and 3 as they are meant

    found = yaml.safe_load(value)
    return found if isinstance(found, str | int | float | bool) else value


def _spelled(flag: str) -> str:
    return "--" + flag.replace("_", "-")
