"""Words of command lines that several commands read alike."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SETTING = re.compile(r"[A-Za-z_]+(\.[A-Za-z_]+)+=")
SHARDS = "tars (a path, directory, glob, brace pattern or URL), or the YAML file of a run; data.KEY=value may follow"


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def count(text: str) -> int:
    """Return a whole number of at least 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value


def number(text: str) -> float:
    """Return a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def share(text: str) -> float:
    """Return a share, from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def add_engine(command: argparse.ArgumentParser) -> None:
    """Declare where the work of a command is done; see `contrastive.recipes.engine`."""
    command.add_argument("--processes", type=positive, metavar="N", help="default: one for each core")
    command.add_argument("--engine", default="local", metavar="NAME", help="local (default), or ray")


def add_shards(command: argparse.ArgumentParser) -> None:
    """Declare the shards that a command reads; `configuration` reads what was given."""
    command.add_argument("shards", nargs="*", metavar="SHARDS", help=SHARDS)


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a command line, and the settings (data.KEY=value) that stand among its words."""
    settings = [word for word in words if SETTING.match(word)]
    rest = [word for word in words if not SETTING.match(word)]
    return vars(parser.parse_intermixed_args(rest)), settings  # shards may stand on both sides of an option


def configuration(shards: Sequence[str], settings: Sequence[str]) -> Any:
    """Return the settings of a run whose data are these shards; see `contrastive.runs.opening.configuration`."""
    from contrastive.runs.opening import configuration as opened  # heavy: torch; not for --help

    files = [word for word in shards if word.endswith((".yaml", ".yml"))]
    return opened(files, settings, [word for word in shards if word not in files])


def add_out(command: argparse.ArgumentParser, what: str) -> None:
    """Declare where a command writes."""
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help=what)
